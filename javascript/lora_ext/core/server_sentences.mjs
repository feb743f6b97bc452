/* eslint max-len: "off" -- a sentence stands in one line, as in the program */
// What the server says in English, as the page says it: in its language, and with its controls instead of options of
// the command line. Sentences that are not here are shown as they are.
import { FILE_SENTENCES } from "./file_sentence_list.mjs";
import { HOST_SENTENCES } from "./host_sentence_list.mjs";
import { PICTURE_SENTENCES } from "./picture_sentence_list.mjs";
import { SENTENCE_PARTS } from "./part_sentence_list.mjs";
import { SERVER_SENTENCES } from "./server_sentence_list.mjs";
import { COUNTED, SINGULAR } from "./singular_forms.mjs";
import { filled, t, translation } from "./strings.mjs";
import { TRAINING_INPUT_SENTENCES } from "./training_input_sentence_list.mjs";
import { TRAINING_SENTENCES } from "./training_sentence_list.mjs";

/** Those that name options of the command line, and what they are on the page. @type {[string, string][]} */
const FOR_THE_PAGE = [
    [
        "{0} exists; choose another name or allow overwriting",
        "{0} exists; choose another name, or tick “replace a file of this name”",
    ],
    [
        "{0} exists; choose another name or give --overwrite",
        "{0} exists; choose another name, or tick “replace a file of this name”",
    ],
    [
        "{0} is one of the inputs; choose another name or give --overwrite",
        "{0} is one of the inputs; choose another name, or tick “replace a file of this name”",
    ],
    [
        "there are no pictures to train on: set train_data_dir to a folder of pictures or of N_concept folders",
        "there are no pictures to train on: choose a picture folder",
    ],
    [
        "{0} does not say that it is a DyLoRA; a plain LoRA has no ranks to split, of a DyLoRA give --unit, the step between ranks, such as 4",
        "{0} does not say that it is a DyLoRA: a plain LoRA has no ranks to split; of a DyLoRA enter the step between ranks, such as 4",
    ],
    [
        "which LoRA is meant? Put <lora:name:1> into the prompt, or name it with --lora",
        "which LoRA is meant? Choose one, or put <lora:name:1> into the prompt",
    ],
    [
        "{0}; --rank converts LoHa, LoKr and full layers to LoRA, --bake layers of any kind to the nearest LoRA (--sd_model BASE for kinds that depend on the base model's weights)",
        "{0}; enter a rank, which converts LoHa, LoKr and full layers to LoRA, or tick “make LoRA of what the program cannot read” (with a base model for kinds that depend on its weights)",
    ],
    [
        "the change of {0} ({1}) depends on the base model's weights; name the base model: --sd_model",
        "the change of {0} ({1}) depends on the base model's weights; choose the base model",
    ],
    [
        "--unit is {0}; it must be from 1 to {1}, the rank of the file",
        "the step between ranks is {0}; it must be from 1 to {1}, the rank of the file",
    ],
    [
        "{0} does not say how its ranks were trained ({1}); use --alpha keep",
        "{0} does not say how its ranks were trained ({1}); choose alpha “unchanged, as kohya's script does”",
    ],
    [
        "{0} layers need the base model's weights and are left out; merge --sd_model can merge them",
        "{0} layers need the base model's weights and are left out; merging into a checkpoint can merge them",
    ],
    [
        "the program can read every layer: --bake changes nothing",
        "the program can read every layer: none had to become the nearest LoRA",
    ],
    [
        "{0} does not fit {1} once it is multiplied by alpha/rank, as diffusers' key format needs; save as bf16 or float (--save_precision)",
        "{0} does not fit {1} once it is multiplied by alpha/rank, as diffusers' key format needs; choose the precision bf16 or float32",
    ],
    [
        "--resume {0}: there is no saved state of a run called {1}, but {2}; give one of these folders to --resume, or set output_name {3}",
        "resume {0}: there is no saved state of a run called {1}, but {2}; give one of these folders to resume, or set output_name {3}",
    ],
    [
        "--resume {0}: there is no saved state (--save_state saves folders that end in {1})",
        "resume {0}: there is no saved state (save_state saves folders that end in {1})",
    ],
    [
        "--resume {0} has another network: {1} ({2}). Set it as before, or {3}",
        "resume {0} has another network: {1} ({2}). Set it as before, or {3}",
    ],
    ["--sample_prompts {0} cannot be read: {1}", "sample_prompts {0} cannot be read: {1}"],
    [
        "--sample_prompts {0} has no prompt: no samples are generated",
        "sample_prompts {0} has no prompt: no samples are generated",
    ],
    ["--sample_prompts {0}: it must be {1}", "sample_prompts {0}: it must be {1}"],
];

/** Parts that the program makes of others. */
const COMPOSED_PARTS = ["made for {0}", "starts at {0} and stops before {1}"];

/** In a sentence: the s or es of a thing that is counted, which is not there behind a 1. */
const PLURAL = "\0";

/** @param {string} sentence */
function pattern(sentence) {
    const literal = sentence.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    // directly behind another one stands what follows a semicolon, such as "; did you mean …", or nothing
    const withEnds = literal.replace(/(\\\{\d\\\})\\\{\d\\\}/g, "$1((?:; .+)?)");
    return new RegExp(`^${withEnds.replace(/\\\{\d\\\}/g, "(.*?)").replaceAll(PLURAL, "(?:e?s)?")}$`, "s");
}

/** An option of the command line and of settings files, such as reg_generate. */
const OPTION = /(?<![-\w])[a-z]+(?:_[a-z0-9]+)+(?!\w)/g;

/** @type {(option: string) => string} */
let labelOf = () => "";

/** What options are called on the page. @param {(option: string) => string} label "" for one that has no label */
export function setOptionLabels(label) {
    labelOf = label;
}

/**
 * A sentence in the page's words, with its own options, not those in values, by their labels.
 * @param {string} shown
 * @param {string[]} values
 */
function withLabels(shown, values) {
    const quoted = (/** @type {string} */ name) => (labelOf(name) ? t("“{0}”", labelOf(name)) : name);
    return filled(translation(shown, values).replace(OPTION, quoted), values);
}

/** What names stand behind: an option, or a word for the thing. */
const NAMING =
    /(?:\b[a-z]+(?:_[a-z]+)+|\b(?:block|called|checkpoint|column|device|embedding|file|folder|job|key|LoRA|mask|name|option|package|picture|preset|row|rule|run|sampler|scheduler|set|setting|tag|token|tokenizer in)) $/;

/**
 * Whether the place of a sentence is a name's, by what stands around it: a name may read like a sentence, or like a part
 * of one ("step 4"). Behind a colon and in brackets stands either.
 * @param {string} before
 * @param {string} after
 */
const isOfName = (before, after) => (before ? NAMING.test(before) : /^ [a-z(]/.test(after));

/**
 * A sentence with its pattern, and the longest of its pieces: a text without that needs no look at the pattern.
 * @param {string} sentence
 * @param {string} shown
 * @param {boolean} [isPart] whether it stands within sentences only
 */
function row(sentence, shown, isPart = false) {
    const marked = sentence.replace(COUNTED, `$1${PLURAL}`);
    const pieces = marked.split(new RegExp(`\\{\\d\\}|${PLURAL}`));
    const [piece] = [...pieces].sort((a, b) => b.length - a.length);
    return {
        shown,
        isPart,
        piece,
        letters: pieces.join("").length,
        fits: pattern(marked),
        places: [...sentence.matchAll(/\{(\d)\}/g)].map(([, place]) => Number(place)),
        isName: [...sentence.matchAll(/\{\d\}/g)].map(
            ({ index }) => !isPart && isOfName(sentence.slice(0, index), sentence.slice(index + 3)),
        ),
    };
}

const lists = [
    SERVER_SENTENCES,
    PICTURE_SENTENCES,
    FILE_SENTENCES,
    HOST_SENTENCES,
    TRAINING_SENTENCES,
    TRAINING_INPUT_SENTENCES,
];
/** Those of the most fixed letters first, since one of fewer may fit their sentences too. */
const rows = [
    ...lists.flat().map((sentence) => row(sentence, sentence)),
    ...FOR_THE_PAGE.map(([sentence, shown]) => row(sentence, shown)),
    ...[...SENTENCE_PARTS, ...COMPOSED_PARTS].map((sentence) => row(sentence, sentence, true)),
]
    .flatMap((many) => (SINGULAR[many.shown] ? [many, row(SINGULAR[many.shown], many.shown, many.isPart)] : [many]))
    .sort((a, b) => b.letters - a.letters);

/** Letters of a sentence; a longer text, which may take long to match, is no message. */
const LONGEST = 2000;

/** How a report of several parts begins, which no pattern may take for one sentence. */
const HOW_A_FILE_FITS = / layers? (does not )?appl(y|ies)$/;

/** What stands before the first colon of a text, and behind it. @param {string} text */
const namedSentence = (text) => (/^(.+?): (.+)$/.exec(text) || []).slice(1);

/**
 * A text that is one of the sentences, in the page's words; null where it is none.
 * @param {string} text
 * @param {boolean} isPart whether it stands within a sentence
 */
function oneSentence(text, isPart) {
    if (text.length > LONGEST) return null;
    for (const known of rows) {
        if ((known.isPart && !isPart) || !text.includes(known.piece)) continue;
        const match = known.fits.exec(text);
        if (!match) continue;
        const [name, behind] = namedSentence(text);
        // "NAME: sentence", where a sentence that begins with a value would take the name for a part of it
        if (behind && match[1]?.startsWith(`${name}: `) && known.fits.test(behind))
            return t("{0}: {1}", name, said(behind, isPart));
        // a part may be a sentence too, such as why something is so, or the names that were meant
        const words = (/** @type {string} */ part, /** @type {number} */ i) =>
            known.isName[i] || part.length === text.length ? part : said(part);
        const values = Array(10).fill("1"); // which the singular may leave out, where it is the count
        known.places.forEach((place, i) => (values[place] = words(match[i + 1], i)));
        return withLabels(known.shown, values);
    }
    return null;
}

/**
 * A text that several sentences were joined to: sentences behind semicolons, names with a sentence behind a colon or in
 * brackets. The text itself where none of them is known.
 * @param {string} text
 * @param {boolean} isPart
 */
function joinedSentences(text, isPart) {
    if (text.length > LONGEST) return text;
    const joined = (/** @type {string[]} */ parts, /** @type {string} */ between) => {
        const told = parts.map((part) => said(part, isPart));
        return told.every((part, i) => part === parts[i]) ? text : told.join(between);
    };
    const parts = text.split("; ");
    if (parts.length > 1) return joined(parts, t("; "));
    const items = text.split("), ").map((item, i, all) => (i < all.length - 1 ? `${item})` : item));
    if (items.length > 1) return joined(items, t(", "));
    const choices = /^[\w=.-]+(?: or [\w=.-]+)+$/.test(text) ? text.split(" or ") : [];
    if (choices.length) return choices.join(t(" or "));
    const [name, behind] = namedSentence(text);
    const reason = behind && said(behind, isPart);
    if (reason && reason !== behind) return t("{0}: {1}", name, reason);
    const [, before, inside] = /^(.+?) \((.+)\)$/.exec(text) || [];
    const words = inside && said(inside);
    return words && words !== inside ? t("{0} ({1})", before, words) : text;
}

/**
 * @param {string} text
 * @param {boolean} [isPart] whether it stands within a sentence
 * @returns {string}
 */
function said(text, isPart = true) {
    const [, marks, marked] = /** @type {RegExpExecArray} */ (/^((?:! )*)(.*)$/s.exec(text));
    if (marks) return marks + said(marked, isPart);
    const lines = text.split("\n");
    if (lines.length > 1) {
        const told = lines.map((line) => line.replace(/\S.*/, (words) => said(words, isPart)));
        // else it is one sentence with a line break in it
        if (lines.some((line, i) => i && told[i] !== line)) return told.join("\n");
    }
    const parts = text.split("; ");
    const isReport = parts.length > 1 && HOW_A_FILE_FITS.test(parts[0]);
    return (isReport ? null : oneSentence(text, isPart)) ?? joinedSentences(text, isPart);
}

/**
 * What the server says, in the page's words: sentences that it knows, also where several are joined.
 * @param {string} text
 * @returns {string}
 */
export const pageWords = (text) => said(text, false);

/** The same for what stands within a sentence. @param {string} text */
export const partWords = (text) => said(text);
