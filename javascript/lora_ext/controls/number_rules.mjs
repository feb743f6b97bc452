// What a number field accepts.
import { t } from "../core/strings.mjs";

/**
 * @typedef {object} NumberRules
 * @property {number | null} [low] least value
 * @property {number | null} [high] greatest value
 * @property {boolean} [whole] only whole numbers
 * @property {number} [multiple] only multiples of this
 * @property {string | number} [usual] what an empty field means; shown as its placeholder
 * @property {boolean} [optional] whether the field may be empty; its value is then null
 * @property {(text: string) => string | number | undefined} [parse] the value of a text; undefined where it has none
 * @property {string} [words] what `parse` accepts, in words
 */

/**
 * What a field accepts, in words.
 * @param {NumberRules} rules
 */
export function accepted({ low = null, high = null, whole = false, multiple = 0, words = "" }) {
    if (words) return words;
    if (multiple > 1) return t("a multiple of {0} from {1} to {2}", multiple, low ?? "", high ?? "");
    if (low !== null && high !== null) {
        return whole ? t("a whole number from {0} to {1}", low, high) : t("a number from {0} to {1}", low, high);
    }
    if (low !== null) return whole ? t("a whole number, {0} or more", low) : t("a number, {0} or more", low);
    if (high !== null) return whole ? t("a whole number, {0} or less", high) : t("a number, {0} or less", high);
    return whole ? t("a whole number") : t("a number");
}

/** @param {string} text */
const shortened = (text) => (text.length > 24 ? `${text.slice(0, 24)}…` : text);

/**
 * What is wrong with the text of a field; "" where nothing is.
 * @param {string} text without spaces around it
 * @param {NumberRules} rules
 */
export function numberError(text, rules) {
    // only an empty field that means nothing by itself has to be filled
    if (!text)
        return rules.optional || rules.usual !== undefined ? "" : t("This is empty; write {0}.", accepted(rules));
    const fits = rules.parse ? rules.parse(text) !== undefined : isWithin(Number(text), rules);
    return fits ? "" : t("{0} is not {1}.", shortened(text), accepted(rules));
}

/**
 * @param {number} value
 * @param {NumberRules} rules
 */
function isWithin(value, { low = null, high = null, whole = false, multiple = 0 }) {
    if (!Number.isFinite(value) || (whole && !Number.isInteger(value))) return false;
    if ((low !== null && value < low) || (high !== null && value > high)) return false;
    return multiple < 2 || value % multiple === 0;
}

/**
 * The value of a text without an error.
 * @param {string} text without spaces around it
 * @param {NumberRules} rules
 * @returns {any} a number, what `parse` makes of it, or null for an empty optional field
 */
export function numberValue(text, rules) {
    if (text === "") return rules.usual ?? null;
    return rules.parse ? rules.parse(text) : Number(text);
}
