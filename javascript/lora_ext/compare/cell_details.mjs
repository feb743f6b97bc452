// One picture of a comparison sheet, large, with its tag and scores.
import { apiUrl, post } from "../core/api.mjs";
import { h } from "../core/elements.mjs";
import { formatPercent } from "../core/format.mjs";
import { copyText } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, facts, outsideLink, buttonRow, stack } from "../controls/basic.mjs";
import { addedText, promptButtons } from "../prompts/prompt_fields.mjs";
import { saidNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").SheetCell} SheetCell */
/** @typedef {import("../api_types").SheetScore} SheetScore */

/** That a picture is equal to another one; "" where it is not. @param {SheetCell} cell */
export function sameText({ same_as: other }) {
    if (!other) return "";
    return other === "without a LoRA" ? t("The same picture as without a LoRA") : t("The same picture as {0}", other);
}

/** A bar for a picture's score. @param {SheetScore} score */
export const scoreBar = ({ copy_of: copy, likeness, difference }) =>
    h("span", {
        class: copy ? "lx-score bad" : "lx-score",
        style: { "--share": Math.min(1, likeness ?? difference) },
        title: copy ? t("nearly a copy of {0}", copy) : t("effect of the LoRA, or likeness to the training pictures"),
    });

/** Buttons that write the cell's tag and seed into a prompt. @param {SheetCell} cell */
const insertButtons = (cell) =>
    promptButtons(
        async (prompt) => {
            const before = prompt.get();
            const made = await post("/compare/prompt", { tag: cell.tag, prompt: before });
            prompt.set(made.prompt);
            prompt.setSeed(cell.seed);
            const text = (made.prompt.startsWith(before) && addedText(before, made.prompt)) || cell.tag;
            return t("Written into the prompt of {0}, with the seed: {1}", prompt.place(), text);
        },
        "main",
        t("Writes this tag and this seed into the prompt; a tag of the same run is replaced"),
    );

/** @param {SheetCell} cell @returns {[string, string | number | null][]} */
function scoreFacts({ seed, score }) {
    if (!score) return [[t("seed"), seed]];
    return [
        [t("seed"), seed],
        [t("difference"), formatPercent(score.difference)],
        [t("sharpness"), score.sharpness.toFixed(2)],
        [t("likeness of this picture"), score.likeness === null ? "" : score.likeness.toFixed(2)],
        [t("copy of"), score.copy_of],
    ];
}

/**
 * @param {SheetCell} cell
 * @param {string} reason why it is suggested; "" where it is not
 */
export function cellDetails(cell, reason) {
    const address = apiUrl("/pictures", { name: cell.file });
    const image = h("img", { src: address, alt: t("the picture") });
    const text = cell.tag || cell.prompt,
        same = sameText(cell);
    return h(
        "div",
        { class: "lx-shown" },
        outsideLink(address, { title: t("Open the picture alone") }, image),
        stack(
            h("code", { class: "lx-tag" }, text),
            facts(scoreFacts(cell)),
            buttonRow(
                cell.tag ? insertButtons(cell) : null,
                button(t("Copy tag"), () => copyText(text), { tip: t("Copy the tag as text") }),
            ),
            same ? saidNote(same) : null,
            reason ? saidNote(reason, "good") : null,
        ),
    );
}
