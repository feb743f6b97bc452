// A button that takes the last change of all captions back, and then does it again.
import { post } from "../core/api.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button } from "../controls/basic.mjs";

/** @typedef {import("../api_types").ReplacedCaptions} Replaced */

/**
 * The last change of each data set: the fields are made anew after it.
 * @type {Map<string, { change: number, redo: boolean }>}
 */
const last = new Map();

/**
 * Tells what a change of all captions did.
 * @param {string} dataset
 * @param {Replaced} replaced
 * @param {() => void} onchange called when captions were changed
 * @param {boolean} [redo] whether undoing it does a change again
 */
export function captionsChanged(dataset, { changed, skipped, undo }, onchange, redo = false) {
    toast([t("{0} captions changed", changed), ...skipped].join(" "), skipped.length ? "bad" : "");
    if (undo) last.set(dataset, { change: undo, redo });
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
    const { change, redo } = known;
    const act = showingErrors(async () => {
        last.delete(dataset); // each change is undone once
        captionsChanged(dataset, await post("/dataset/undo", { change }), onchange, !redo);
    });
    return button(redo ? t("Redo") : t("Undo"), act, { tip: t("Captions become what they were before") });
}
