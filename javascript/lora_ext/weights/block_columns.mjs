// The columns of the block editor: a bar for how much a block changes, a slider, the number, in the U-Net's shape.
import { h } from "../core/elements.mjs";
import { formatWeight } from "../core/format.mjs";
import { t } from "../core/strings.mjs";
import { blockGroup, blockLevel, blockTitle, deepestLevel } from "./block_labels.mjs";
import { blockSlider } from "./block_slider.mjs";

/** @typedef {import("./block_weights.mjs").Weight} Weight */
/** @typedef {import("./block_slider.mjs").SliderEvents} SliderEvents */
/** @typedef {{ element: HTMLElement, slider: HTMLElement, number: HTMLElement, bar: HTMLElement }} Column */

/**
 * @param {string} label
 * @param {boolean} sdxl
 * @param {SliderEvents} events
 * @returns {Column}
 */
export function blockColumn(label, sdxl, events) {
    const bar = h("div", { class: "lx-norm" }, h("i", {}), h("b", {}));
    const slider = blockSlider(`${label}, ${blockTitle(label)}`, events);
    const number = h("output", { class: "lx-value" });
    const name = h("span", { class: "lx-name" }, blockGroup(label), h("span", {}, label.replace(/\D/g, "")));
    const style = { "--depth": blockLevel(label, sdxl), "--deepest": deepestLevel(sdxl) };
    const element = h(
        "div",
        { class: `lx-column ${blockGroup(label)}`, "data-label": label, style },
        bar,
        h("div", { class: "lx-well" }, slider),
        number,
        name,
    );
    return { element, slider, number, bar };
}

/**
 * Shows a block's weight, and how much the file changes there.
 * @param {Column} column
 * @param {string} label
 * @param {Weight} weight
 * @param {[number, number]} range
 * @param {Record<string, number>} norms label → ‖ΔW‖; empty where no file is chosen
 */
export function showWeight({ element, slider, number, bar }, label, weight, [low, high], norms) {
    const share = (/** @type {number} */ value) => String(Math.min(Math.max((value - low) / (high - low), 0), 1));
    const value = typeof weight === "number" ? weight : null;
    const text = value === null ? String(weight) : formatWeight(value);
    slider.style.setProperty("--value", share(value ?? 0.5));
    slider.style.setProperty("--zero", share(0));
    slider.classList.toggle("random", value === null);
    slider.classList.toggle("off", value === 0);
    slider.setAttribute("aria-valuenow", String(value ?? 0));
    slider.setAttribute("aria-valuetext", text);
    number.textContent = text;
    const part = (norms[label] || 0) / (Math.max(...Object.values(norms), 0) || 1);
    bar.style.setProperty("--norm", String(part));
    bar.style.setProperty("--now", String(Math.min(part * Math.abs(value ?? 1), 1)));
    const change =
        label in norms ? t("changes by {0} at weight 1", norms[label].toPrecision(3)) : t("not in this file");
    bar.title = slider.title = `${label} · ${blockTitle(label)} · ${change}`;
    element.classList.toggle("absent", Object.keys(norms).length > 0 && !(label in norms));
}

/**
 * The skip connections, one a level, from its last input block to its first output block.
 * @param {string[]} unet labels without BASE
 * @param {boolean} sdxl
 */
export function skipConnections(unet, sdxl) {
    return Array.from({ length: deepestLevel(sdxl) }, (_, level) => {
        const isHere = (/** @type {string} */ side) =>
            unet.map((label) => label.startsWith(side) && blockLevel(label, sdxl) === level);
        const lastIn = isHere("IN").lastIndexOf(true),
            firstOut = isHere("OUT").indexOf(true);
        if (lastIn < 0 || firstOut < 0) return null;
        const left = (100 * (lastIn + 1)) / unet.length;
        const style = { left: `${left}%`, width: `${(100 * firstOut) / unet.length - left}%`, "--depth": level };
        return h("div", { class: "lx-bridge", "aria-hidden": "true", style });
    });
}
