// How strongly a LoRA acts: usually 0 to 2, but any number to 100 may be typed.
import { rangeField } from "./range_field.mjs";

/**
 * @param {string} label
 * @param {string} tip
 * @param {Partial<import("./range_field.mjs").RangeOptions>} [more]
 */
export const strengthField = (label, tip, more = {}) =>
    rangeField(label, { min: 0, max: 2, step: 0.05, value: 1, hard: false, low: -100, high: 100, tip, ...more });
