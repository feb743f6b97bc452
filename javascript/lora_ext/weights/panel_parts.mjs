// Small parts of the Weights panel.
import { h } from "../core/elements.mjs";
import { formatBytes } from "../core/format.mjs";
import { copyText } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { facts, segments } from "../controls/basic.mjs";
import { basicFacts, damageNote, oddityNotes } from "../library/file_details.mjs";

/** @typedef {import("../api_types").LoraFileDetails} LoraFile */

/** What is known of a file, with its trigger words. @param {LoraFile} file */
export function aboutFile(file) {
    const words = file.words.map((word) =>
        h(
            "button",
            { type: "button", class: "lx-chip", title: t("Copy this word"), onclick: () => copyText(word) },
            word,
        ),
    );
    return [
        facts([...basicFacts(file, 3), [t("size"), formatBytes(file.bytes)]]),
        damageNote(file),
        oddityNotes(file),
        words.length
            ? h("div", { class: "lx-chips" }, h("span", { class: "lx-label" }, t("Trigger words")), words)
            : null,
    ];
}

/**
 * Which blocks have sliders.
 * @param {[number, number]} sizes of the two layouts: attention blocks, all blocks
 * @param {number} size
 * @param {(size: number) => void} onchange
 */
export const layoutChoice = ([small, large], size, onchange) =>
    segments(
        [
            [small, t("attention blocks"), t("Only blocks with attention: what most files change")],
            [large, t("all blocks"), t("Every block of the U-Net")],
        ],
        size,
        (to) => onchange(Number(to)),
        t("Which blocks"),
    );

/** @param {(low: number, high: number) => void} onchange */
export const rangeChoice = (onchange) =>
    segments(
        [
            ["0,1", "0 … 1", t("Weights from 0 to 1")],
            ["-1,2", "−1 … 2", t("Weights from −1 to 2")],
        ],
        "0,1",
        (to) => onchange(to === "0,1" ? 0 : -1, to === "0,1" ? 1 : 2),
        t("Range of the sliders"),
    );
