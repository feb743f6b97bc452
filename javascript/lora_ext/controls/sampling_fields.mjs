// Fields for how pictures are generated, which several panels have.
import { api } from "../core/api.mjs";
import { h } from "../core/elements.mjs";
import { page } from "../core/page.mjs";
import { loadStored } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { select } from "./basic.mjs";
import { rangeField } from "./range_field.mjs";

/** @typedef {Record<string, any>} Stored values of before, by name */
/** @typedef {Partial<import("./range_field.mjs").RangeOptions>} More */

/** Whether this program draws by itself, with the small model as its first one: fewer steps and less CFG suit that. */
export const usualSteps = () => (page.choices.draws ? 12 : 20);
export const usualCfg = () => (page.choices.draws ? 2.5 : 7);

/**
 * @param {Stored} stored
 * @param {string} name
 * @param {string} label
 * @param {string} tip
 * @param {[number, number, number]} limits min, max, step
 * @param {number} usual
 * @param {More} [more]
 */
const range = (stored, name, label, tip, [min, max, step], usual, more = {}) =>
    rangeField(label, { min, max, step, value: stored[name] ?? usual, usual, tip, ...more });

/** @param {Stored} stored @param {number} usual */
export const stepsField = (stored, usual) =>
    range(stored, "steps", t("Steps"), t("More steps: finer detail, slower"), [1, 150, 1], usual);

/** @param {Stored} stored @param {number} usual */
export const cfgField = (stored, usual) =>
    range(stored, "cfg", t("CFG scale"), t("How strictly the prompt is followed"), [1, 20, 0.5], usual);

/** @param {Stored} stored @param {number} high */
export const seedField = (stored, high) =>
    range(stored, "seed", t("Seed"), t("Same seed, same picture"), [0, high, 1], 7);

/**
 * A field for the width or the height of pictures; empty, or 0, for the model's own size.
 * @param {Stored} stored
 * @param {"width" | "height"} name
 */
export function sizeField(stored, name) {
    const own = h("small", { class: "lx-hint" }, t("the model's own size"));
    const text = (/** @type {number | undefined} */ size) => (size ? String(size) : "");
    const label = name === "width" ? t("Width") : t("Height");
    const more = { multiple: 8, value: text(stored[name]), show: text };
    const made = range({}, name, label, t("Empty for the size that the model was made for"), [0, 2048, 64], 0, more);
    const showOwn = () => void (own.hidden = Boolean(Number(made.box.value)));
    const { set } = made;
    made.append(own);
    made.setEmpty(0);
    made.addEventListener("input", showOwn);
    showOwn();
    return Object.assign(made, {
        set(/** @type {number | undefined} */ size) {
            set(text(size));
            showOwn();
        },
    });
}

/**
 * Fields for the size of pictures.
 * @param {Stored} stored
 * @param {HTMLSelectElement} checkpoint the choice of the model, whose own size empty fields show
 */
export function sizeFields(stored, checkpoint) {
    const fields = { width: sizeField(stored, "width"), height: sizeField(stored, "height") };
    const show = () => showNativeSize(Object.values(fields), checkpoint.value);
    checkpoint.addEventListener("change", show);
    show();
    return fields;
}

/**
 * Shows in size fields what they stand for while they are empty.
 * @param {ReturnType<typeof sizeField>[]} fields
 * @param {string} checkpoint the model that draws; in the web UI it is its own
 * @returns {Promise<number>} pixels of a side; 0 where that is not known before the model is loaded
 */
export async function showNativeSize(fields, checkpoint) {
    // it is a help for the eye alone: what is wrong with a model is told when it draws
    const { side } = await api("/native-size", { query: { checkpoint } }).catch(() => ({ side: 0 }));
    for (const field of fields) field.setEmpty(side);
    return side;
}

/** @param {Stored} stored @param {number} max */
export const batchField = (stored, max) =>
    range(stored, "batch", t("Pictures"), t("Pictures per batch"), [1, max, 1], 1);

/** The model of panels without a choice of their own: the one that was used last to generate, else the first one. */
export const lastCheckpoint = () =>
    loadStored("generate", /** @type {Stored} */ ({})).checkpoint ?? page.choices.checkpoints[0] ?? "";

/** @param {string | undefined} stored the checkpoint of before */
export function checkpointSelect(stored) {
    const { checkpoints } = page.choices;
    const rows = checkpoints.map(
        (name) => /** @type {[string, string]} */ ([name, name || t("the small built-in model")]),
    );
    return select(rows.length ? rows : [["", ""]], stored ?? checkpoints[0] ?? "");
}
