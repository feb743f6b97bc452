/* eslint max-len: "off" -- a sentence stands in one line, as in the program */
// What the server says in English, as the page says it: in its language, and with its controls instead of options of
// the command line. Sentences that are not here are shown as they are.
import { FILE_SENTENCES } from "./file_sentence_list.mjs";
import { HOST_SENTENCES } from "./host_sentence_list.mjs";
import { PICTURE_SENTENCES } from "./picture_sentence_list.mjs";
import { SERVER_SENTENCES } from "./server_sentence_list.mjs";
import { t } from "./strings.mjs";
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
        "{0} does not say its unit; give --unit, the step between ranks, such as 4",
        "{0} does not say its unit: enter the step between ranks, such as 4",
    ],
    [
        "which LoRA is meant? Put <lora:name:1> into the prompt, or name it with --lora",
        "which LoRA is meant? Choose one, or put <lora:name:1> into the prompt",
    ],
];

/** @param {string} sentence */
function pattern(sentence) {
    const literal = sentence.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    // directly behind another one stands what follows a semicolon, such as "; did you mean …", or nothing
    const withEnds = literal.replace(/(\\\{\d\\\})\\\{\d\\\}/g, "$1((?:; .+)?)");
    return new RegExp(`^${withEnds.replace(/\\\{\d\\\}/g, "(.*?)")}$`, "s");
}

const lists = [
    SERVER_SENTENCES,
    PICTURE_SENTENCES,
    FILE_SENTENCES,
    HOST_SENTENCES,
    TRAINING_SENTENCES,
    TRAINING_INPUT_SENTENCES,
];
/** @type {{ pattern: RegExp, shown: string }[]} the longest first, since a shorter one may fit its sentences too */
const sentences = lists
    .flatMap((list) => list.map((sentence) => [sentence, sentence]))
    .concat(FOR_THE_PAGE)
    .sort(([a], [b]) => b.length - a.length)
    .map(([sentence, shown]) => ({ pattern: pattern(sentence), shown }));

/** How a report of several parts begins, which no pattern may take for one sentence. */
const HOW_A_FILE_FITS = / layers appl(y|ies)$/;

/**
 * A sentence of the server's in the page's words.
 * @param {string} text
 * @returns {string}
 */
export function pageWords(text) {
    const parts = text.split("; ");
    const isReport = parts.length > 1 && HOW_A_FILE_FITS.test(parts[0]);
    for (const { pattern: fits, shown } of isReport ? [] : sentences) {
        const match = fits.exec(text);
        // a part may be a sentence too, such as why something is so, or the names that were meant
        if (match)
            return t(shown, ...match.slice(1).map((part) => (part.length < text.length ? pageWords(part) : part)));
    }
    const said = parts.length > 1 ? parts.map(pageWords) : parts;
    return said.every((part, i) => part === parts[i]) ? text : said.join(t("; "));
}
