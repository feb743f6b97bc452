// A tag that is added to all captions of a folder, or removed from them.
import { post } from "../core/api.mjs";
import { h } from "../core/elements.mjs";
import { showingErrors } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, textInput } from "../controls/basic.mjs";
import { captionsChanged, captionUndo } from "./caption_undo.mjs";

/** @typedef {import("../api_types").ReplacedCaptions} Replaced */

/**
 * @param {string} dataset
 * @param {() => void} onchange called when captions were changed
 */
export function tagOfAll(dataset, onchange) {
    const tip = t("A word or a few, as between two commas of a caption");
    const box = textInput("", null, { "aria-label": t("Tag"), title: tip, placeholder: t("a tag for all captions") });
    const act = (/** @type {() => Promise<Replaced>} */ call) =>
        showingErrors(async () => captionsChanged(dataset, await call(), onchange));
    const add = act(() => post("/dataset/tag", { dataset, tag: box.value }));
    const remove = act(() =>
        post("/dataset/replace", { dataset, find: box.value, put: "", whole_tags: true, dry: false }),
    );
    return h(
        "div",
        { class: "lx-tag-of-all" },
        buttonRow(
            box,
            button(t("Add to all"), add, { tip: t("Adds the tag at the end of every caption that lacks it") }),
            button(t("Remove from all"), remove, { tip: t("Removes the tag from every caption") }),
            captionUndo(dataset, onchange),
        ),
    );
}
