// Fields for how pictures are generated, which several panels have.
import { page } from "../core/page.mjs";
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

/** @param {Stored} stored @param {"width" | "height"} name */
export const sizeField = (stored, name) =>
    range(
        stored,
        name,
        name === "width" ? t("Width") : t("Height"),
        t("0: the model's native size"),
        [0, 2048, 64],
        0,
        { multiple: 8 },
    );

/** @param {Stored} stored @param {number} max */
export const batchField = (stored, max) =>
    range(stored, "batch", t("Pictures"), t("Pictures per batch"), [1, max, 1], 1);

/** @param {string | undefined} stored the checkpoint of before */
export function checkpointSelect(stored) {
    const { checkpoints } = page.choices;
    const rows = checkpoints.map(
        (name) => /** @type {[string, string]} */ ([name, name || t("the small built-in model")]),
    );
    return select(rows.length ? rows : [["", ""]], stored ?? checkpoints[0] ?? "");
}
