// Find and replace in all captions of a folder, and the caption of one picture.
import { api, apiUrl, post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors } from "../core/messages.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import {
    button,
    checkbox,
    field,
    grid,
    note,
    buttonRow,
    select,
    stack,
    summary,
    textArea,
    textInput,
} from "../controls/basic.mjs";
import { captionsChanged } from "./caption_undo.mjs";
import { suggestedTags, withSuggestedTag } from "./caption_words.mjs";
import { editablePicture } from "./picture_editor.mjs";
import { saidNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").DatasetPicture} DatasetPicture */
/** @typedef {{ dataset: string, captioner: string, overwrite: boolean }} DescribeRequest */
/** @typedef {import("../api_types").DescribedPictures} DescribedPictures */
/** @typedef {import("../api_types").ReplacedCaptions} Replaced */

/**
 * @param {string} dataset
 * @param {() => void} onchange called when captions were changed
 */
export function findAndReplace(dataset, onchange) {
    let wholeTags = true;
    const find = textInput("", null, { "aria-label": t("Find") }),
        put = textInput("", null, { "aria-label": t("Replace by") });
    const out = stack();
    const replace = (/** @type {boolean} */ dry) =>
        showingErrors(async () => {
            const request = { dataset, find: find.value, put: put.value, whole_tags: wholeTags, dry };
            const replaced = /** @type {Replaced} */ (await post("/dataset/replace", request));
            const { changed, examples, skipped } = replaced;
            setChildren(
                out,
                note(dry ? t("{0} captions would change", changed) : t("{0} captions changed", changed)),
                examples.map(([before, after]) => note(`${before} → ${after}`)),
                skipped.map((line) => saidNote(line, "bad")),
            );
            if (!dry) captionsChanged(dataset, replaced, onchange);
        });
    return h(
        "details",
        {},
        summary(t("Find and replace")),
        grid(
            field(t("Find"), find, t("What to look for in all captions")),
            field(t("Replace by"), put, t("Empty removes the tag")),
        ),
        checkbox(t("whole tags only"), true, (on) => (wholeTags = on), t("Between commas; else anywhere in the text")),
        buttonRow(
            button(t("Count"), replace(true), { tip: t("Shows what would change, and changes nothing") }),
            button(t("Replace"), replace(false), { tip: t("Writes the captions") }),
        ),
        out,
    );
}

/** The titles of the web UI's interrogators. @type {() => Record<string, string>} */
const captionerTitles = () => ({
    clip: t("CLIP interrogator: a sentence and keywords"),
    blip: t("BLIP: a sentence"),
    deepbooru: t("DeepDanbooru: tags"),
});

/** Chooses what describes pictures; remembered. @param {string[]} captioners */
function captionerSelect(captioners) {
    const titles = captionerTitles();
    const options = captioners.map((name) => /** @type {[string, string]} */ ([name, titles[name] || name]));
    const last = loadStored("captioner", "");
    const chosen = captioners.includes(last) ? last : captioners[0];
    return select(options, chosen, (name) => store("captioner", name));
}

/** What is shown where nothing describes pictures: the command that does. */
function captionCommand() {
    const command = "python -m lora_ext caption --recursive DIR";
    const text = t(
        "A tagger (a folder with model.onnx and selected_tags.csv) or a BLIP model in the folder captioners of the " +
            "data folder can be chosen here. Those elsewhere are used with the command {0}",
        command,
    );
    return note(text);
}

/**
 * Lets the web UI describe the pictures of a folder.
 * @param {string} dataset
 * @param {string[]} captioners
 * @param {(request: DescribeRequest) => void} describe starts the job
 */
export function describePictures(dataset, captioners, describe) {
    const heading = summary(t("Describe pictures"));
    if (!captioners.length) return h("details", {}, heading, captionCommand());
    let overwrite = false;
    const pick = captionerSelect(captioners);
    return h(
        "details",
        {},
        heading,
        field(
            t("Describe by"),
            pick,
            t("The model is loaded first; of missing ones only the web UI's own are downloaded"),
        ),
        checkbox(
            t("replace captions"),
            false,
            (on) => (overwrite = on),
            t("Also describes pictures that have a caption, which is lost"),
        ),
        buttonRow(
            button(t("Write captions"), () => describe({ dataset, captioner: pick.value, overwrite }), {
                tip: t("Describes the pictures that have no caption yet"),
            }),
        ),
    );
}

/**
 * What a job that described pictures did.
 * @param {DescribedPictures} described
 * @param {{ done: number, total: number }} job one that was stopped did not do all
 */
export const captionReport = ({ written, had, skipped }, { done, total }) => [
    note(done < total ? t("Stopped: {0} captions written", written) : t("{0} captions written", written), "good"),
    had ? note(t("{0} pictures have a caption already", had)) : null,
    skipped.map((line) => saidNote(line, "bad")),
];

/** @typedef {Record<string, { text: string, caption: string }>} Drafts by picture: the text typed, the saved caption */

/**
 * The caption that is being typed for a picture; it survives a reload of the page.
 * @param {string} picture its data set and name
 * @param {string} caption the saved one; a draft of another one is not shown
 */
function captionDraft(picture, caption) {
    const drafts = () => loadStored("caption_drafts", /** @type {Drafts} */ ({}));
    const draft = drafts()[picture];
    return {
        text: draft && draft.caption === caption ? draft.text : caption,
        /** Keeps what is typed until it is the saved caption. */
        keep(/** @type {string} */ text, /** @type {string} */ saved) {
            const kept = drafts();
            if (text === saved) delete kept[picture];
            else kept[picture] = { text, caption: saved };
            store("caption_drafts", kept);
        },
    };
}

const MOST_SUGGESTIONS = 6;

/**
 * Tags of the other captions that may come next, while a caption is edited.
 * @param {HTMLTextAreaElement} box
 * @param {[string, number][]} tags of all captions, the most frequent first
 */
function tagSuggestions(box, tags) {
    const chips = h("div", {
        class: "lx-chips",
        hidden: true,
        "aria-label": t("Tags of the other captions"),
        role: "group",
    });
    const add = (/** @type {string} */ tag) => {
        const text = withSuggestedTag(box.value, tag);
        box.focus();
        box.select();
        // as if it were typed, so that the browser's own undo takes it back
        if (document.execCommand("insertText", false, text)) return;
        box.value = text;
        box.dispatchEvent(new Event("input"));
    };
    const show = () => {
        const found = suggestedTags(tags, box.value, MOST_SUGGESTIONS);
        chips.hidden = !found.length;
        setChildren(
            chips,
            found.map((tag) =>
                h(
                    "button",
                    { type: "button", class: "lx-chip", title: t("Adds this tag"), onclick: () => add(tag) },
                    tag,
                ),
            ),
        );
    };
    const leave = (/** @type {Event} */ event) => {
        const to = /** @type {Node | null} */ (/** @type {FocusEvent} */ (event).relatedTarget);
        if (to !== box && !chips.contains(to)) chips.hidden = true;
    };
    chips.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    for (const name of ["input", "focus"]) box.addEventListener(name, show);
    for (const one of [box, chips]) one.addEventListener("focusout", leave);
    return chips;
}

/**
 * A picture with its caption.
 * @param {string} dataset
 * @param {DatasetPicture} picture
 * @param {[string, number][]} tags of all captions, the most frequent first
 * @param {number} aspect width by height of the training
 * @param {() => unknown} onchange called when its crop or mask was changed
 * @param {boolean} trained whether its bucket and its repeats are those of the training, and shown
 */
export function captionedPicture(dataset, picture, tags, aspect, onchange, trained) {
    const { name, caption, concept, bucket, repeats, time } = picture;
    const draft = captionDraft(`${dataset}/${name}`, caption);
    const box = textArea(3, draft.text, {
        placeholder: concept ? t("no caption; from the folder name: {0}", concept) : t("no caption"),
        "aria-label": t("Caption of {0}", name),
        title: t("Saved when you leave the field"),
    });
    const edits = [picture.cropped && t("cropped"), picture.masked && t("masked")];
    const about = trained ? [bucket, `×${repeats}`, ...edits] : edits;
    const state = h("small", {}, draft.text === caption ? about.filter(Boolean).join(" · ") : t("not saved yet"));
    let saved = caption;
    // A draft of before the reload is saved too when the field is left, although nothing was typed since then.
    const save = showingErrors(async () => {
        const text = box.value;
        if (text === saved) return;
        await api("/dataset/caption", { method: "PUT", body: { dataset, picture: name, caption: text } });
        saved = picture.caption = text;
        draft.keep(box.value, saved);
        state.textContent = t("saved");
    });
    box.addEventListener("input", () => draft.keep(box.value, saved));
    box.addEventListener("blur", save);
    const src = apiUrl("/dataset/thumbnail", { dataset, picture: name, v: time });
    return h(
        "div",
        { class: "lx-picture" },
        editablePicture({ dataset, picture: name }, h("img", { loading: "lazy", alt: name, src }), aspect, onchange),
        h("div", {}, box, tagSuggestions(box, tags), state),
    );
}
