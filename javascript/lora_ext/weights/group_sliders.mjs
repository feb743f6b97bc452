// Sliders that move all blocks of a side of the U-Net together; each stands where its blocks do.
import { h } from "../core/elements.mjs";
import { formatWeight } from "../core/format.mjs";
import { t } from "../core/strings.mjs";
import { button } from "../controls/basic.mjs";

/** @typedef {import("./block_editor.mjs").BlockEditor} BlockEditor */

/**
 * The mean of the weights that are numbers, and whether the weights differ. Letters (R, U, X) have no mean.
 * @param {(number | string)[]} weights
 */
export function weightSummary(weights) {
    const numbers = weights.filter((value) => typeof value === "number");
    const mean = numbers.reduce((sum, value) => sum + value, 0) / (numbers.length || 1);
    return { mean, first: numbers[0], differ: weights.some((value) => value !== weights[0]) || !numbers.length };
}

/**
 * One slider with its two buttons.
 * @param {BlockEditor} editor
 * @param {string} group
 * @param {string} label
 * @param {string} tip
 */
function groupSlider(editor, group, label, tip) {
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
    /** Shows the mean of the group's weights. */
    const show = () => {
        const [low, high] = editor.range;
        const weights = editor.groupWeights(group);
        const { mean, first, differ } = weightSummary(weights);
        Object.assign(slider, { min: low, max: high, disabled: !weights.length });
        slider.value = String(mean);
        slider.style.setProperty("--share", `${(100 * (Number(slider.value) - low)) / (high - low)}%`);
        slider.setAttribute("aria-valuetext", differ ? t("different weights") : formatWeight(first));
        element.classList.toggle("mixed", differ);
    };
    return { element, show };
}

/** @param {BlockEditor} editor */
export function groupSliders(editor) {
    const sliders = [
        groupSlider(editor, "ALL", t("All"), t("every block")),
        groupSlider(editor, "IN", "IN", t("the input blocks")),
        groupSlider(editor, "MID", "MID", t("the middle block")),
        groupSlider(editor, "OUT", "OUT", t("the output blocks")),
    ];
    const elements = sliders.map(({ element }) => element);
    const show = () => {
        for (const slider of sliders) slider.show();
    };
    return { element: h("div", { class: "lx-handles" }, elements), show };
}
