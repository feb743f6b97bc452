// A button, and keys, that take the last change of all captions, or of a crop and mask, back, and then do it again.
import { post } from "../core/api.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow } from "../controls/basic.mjs";
import { isTyping, undoKey } from "../controls/undo.mjs";
import { pageWords } from "../core/server_sentences.mjs";

/** @typedef {import("../api_types").ReplacedCaptions} Replaced */

/**
 * The last change of each data set: the fields are made anew after it.
 * @type {Map<string, { change: number, redo: boolean, said: (changed: number) => string }>}
 */
const last = new Map();

/** @param {number} changed */
const captionWords = (changed) => t("{0} captions changed", changed);

/** @param {number} changed */
const pictureWords = (changed) => (changed ? t("Crop and mask changed") : "");

/** Remembers that a crop or a mask was changed. @param {string} dataset @param {number} change */
export const pictureChanged = (dataset, change) => void last.set(dataset, { change, redo: false, said: pictureWords });

/**
 * Tells what a change of all captions did.
 * @param {string} dataset
 * @param {Replaced} replaced
 * @param {() => void} onchange called when captions were changed
 * @param {boolean} [redo] whether undoing it does a change again
 * @param {(changed: number) => string} [said]
 */
export function captionsChanged(dataset, { changed, skipped, undo }, onchange, redo = false, said = captionWords) {
    toast([said(changed), ...skipped.map(pageWords)].join(" "), skipped.length ? "bad" : "");
    if (undo) last.set(dataset, { change: undo, redo, said });
    else last.delete(dataset);
    if (changed) onchange();
}

/**
 * The button, where there is something to undo.
 * @param {string} dataset
 * @param {() => void} onchange
 */
export function captionUndo(dataset, onchange) {
    const known = last.get(dataset);
    if (!known) return null;
    const { change, redo, said } = known;
    const act = showingErrors(async () => {
        last.delete(dataset); // each change is undone once
        captionsChanged(dataset, await post("/dataset/undo", { change }), onchange, !redo, said);
    });
    const tip = redo
        ? t("Does the last change of captions, crops and masks again (Ctrl+Shift+Z)")
        : t("Captions, crops and masks become what they were before (Ctrl+Z)");
    const made = button(redo ? t("Redo") : t("Undo"), act, { tip });
    made.dataset.captionUndo = redo ? "redo" : "undo";
    document.addEventListener("keydown", pressUndo); // once, however often it is added
    return made;
}

/** Presses the button that is in sight, where nothing is typed. @param {KeyboardEvent} event */
function pressUndo(event) {
    const way = event.defaultPrevented || isTyping(event.target) ? null : undoKey(event);
    if (!way) return;
    /** @type {NodeListOf<HTMLElement>} */
    const made = document.querySelectorAll(`#lora-ext [data-caption-undo="${way}"]`);
    const seen = [...made].find((one) => one.offsetParent);
    if (seen) event.preventDefault();
    seen?.click();
}

/** The button, where a crop or a mask was changed last. @param {string} dataset @param {() => void} onchange */
export const pictureUndo = (dataset, onchange) =>
    last.get(dataset)?.said === pictureWords ? buttonRow(captionUndo(dataset, onchange)) : null;
