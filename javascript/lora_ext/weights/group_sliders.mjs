// Sliders that move all blocks of a side of the U-Net together; each stands where its blocks do.
import { h } from "../core/elements.mjs";
import { formatWeight } from "../core/format.mjs";
import { t } from "../core/strings.mjs";
import { button } from "../controls/basic.mjs";

/** @typedef {import("./block_editor.mjs").BlockEditor} BlockEditor */

/** @param {BlockEditor} editor */
export function groupSliders(editor) {
    /** @type {[string, string, string][]} */
    const names = [
        ["ALL", t("All"), t("every block")],
        ["IN", "IN", t("the input blocks")],
        ["MID", "MID", t("the middle block")],
        ["OUT", "OUT", t("the output blocks")],
    ];
    const groups = names.map(([group, label, tip]) => {
        const slider = h("input", {
            type: "range",
            class: "lx-range",
            min: 0,
            max: 1,
            step: 0.05,
            value: 1,
            "aria-label": `${label}: ${tip}`,
            oninput: () => editor.setGroup(group, Number(slider.value)),
        });
        const element = h(
            "div",
            { class: "lx-handle", title: t("Moves {0} together", tip) },
            h("span", {}, label),
            slider,
            button("0", () => editor.setGroup(group, 0), { kind: "quiet", tip: t("Set to 0: {0}", tip) }),
            button("1", () => editor.setGroup(group, 1), { kind: "quiet", tip: t("Set to 1: {0}", tip) }),
        );
        return { group, slider, element };
    });
    /** Shows the mean of each group's weights. */
    const show = () => {
        const [low, high] = editor.range;
        for (const { group, slider, element } of groups) {
            const values = editor.groupWeights(group),
                numbers = values.filter((value) => typeof value === "number");
            const differ = values.some((value) => value !== values[0]) || !numbers.length;
            Object.assign(slider, { min: low, max: high, disabled: !values.length });
            slider.value = String(numbers.reduce((sum, value) => sum + value, 0) / (numbers.length || 1));
            slider.style.setProperty("--share", `${(100 * (Number(slider.value) - low)) / (high - low)}%`);
            slider.setAttribute("aria-valuetext", differ ? t("different weights") : formatWeight(numbers[0]));
            element.classList.toggle("mixed", differ);
        }
    };
    return {
        element: h(
            "div",
            { class: "lx-handles" },
            groups.map(({ element }) => element),
        ),
        show,
    };
}
