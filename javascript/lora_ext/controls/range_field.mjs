// A slider with a number field beside it.
import { h } from "../core/elements.mjs";
import { asNumber } from "./number_field.mjs";

/**
 * @typedef {object} RangeOptions
 * @property {number} min least value of the slider
 * @property {number} max
 * @property {number} step
 * @property {string | number} value
 * @property {string} [tip]
 * @property {(value: any) => void} [oninput] called after each change to a right value
 * @property {() => void} [onwrong] called when the number cannot be read: nothing made of it is true any more
 * @property {boolean} [hard] whether the number field has the slider's limits too; else it has `low` and `high`
 * @property {number | null} [low]
 * @property {number | null} [high]
 * @property {string | number} [usual] see NumberRules
 * @property {number} [multiple]
 * @property {(text: string) => string | number | undefined} [parse]
 * @property {string} [words]
 * @property {(value: number) => string} [show] the slider's value as the number field has it
 */
/** @typedef {import("./number_rules.mjs").NumberRules} NumberRules */

/**
 * @param {RangeOptions} options
 * @returns {NumberRules}
 */
function rulesOf({ min, max, step, hard = true, low = null, high = null, usual, multiple = 0, parse, words }) {
    const whole = Number.isInteger(step) && Number.isInteger(min);
    const limits = hard ? { low: min, high: max } : { low, high };
    return {
        ...limits,
        whole,
        multiple,
        ...(usual === undefined ? {} : { usual }),
        ...(parse ? { parse } : {}),
        ...(words ? { words } : {}),
    };
}

let ranges = 0;

/**
 * The two inputs, and how the slider follows the number. It stands apart where it cannot show the number.
 * @param {string} label
 * @param {RangeOptions} options
 * @param {{ min: number, max: number, empty: number }} limits of the slider, which may change; empty: where it stands
 *     while the number field is empty
 */
function inputs(label, { step, value, parse, hard = true }, limits) {
    const { min, max } = limits;
    const slider = h("input", { type: "range", class: "lx-range", id: `lx-range-${++ranges}`, min, max, step, value });
    const box = h("input", {
        type: parse ? "text" : "number",
        class: "lx-number",
        step,
        "aria-label": label,
        ...(hard ? { min, max } : {}),
        value,
    });
    /** @param {string | number} now */
    const follow = (now) => {
        const outside = Number(now) < limits.min || Number(now) > limits.max;
        const apart = outside || Boolean(parse && /^[1-9]\d*$/.test(String(now)));
        slider.value = String(apart && parse ? limits.min : now === "" ? limits.empty : now);
        const share = (100 * (Number(slider.value) - limits.min)) / (limits.max - limits.min || 1);
        slider.style.setProperty("--share", `${share}%`);
        return apart;
    };
    /** Shows what an empty number field stands for. @param {number} shown 0 where that is not known */
    const setEmpty = (shown) => {
        box.placeholder = shown ? String(shown) : "";
        limits.empty = shown;
        follow(box.value);
    };
    return { slider, box, follow, setEmpty };
}

/**
 * @param {string} label
 * @param {RangeOptions} options
 */
export function rangeField(label, options) {
    const { tip = "", oninput, onwrong, show = String } = options;
    const limits = { min: options.min, max: options.max, empty: options.min };
    const rules = rulesOf(options);
    const { slider, box, follow: moveSlider, setEmpty } = inputs(label, options, limits);
    const { message, check, number } = asNumber(box, rules, () => {
        if (check()) return onwrong && onwrong();
        const value = number();
        follow(value);
        return oninput && oninput(value);
    });
    const element = h(
        "div",
        { class: "lx-field", title: tip || null },
        h("label", { for: slider.id }, label),
        h("div", { class: "lx-row tight" }, slider, box),
        message,
    );
    const follow = (/** @type {string | number} */ value) =>
        void element.classList.toggle("lx-apart", moveSlider(value));
    const set = (/** @type {string | number} */ value) => {
        box.value = String(value);
        check();
        follow(value);
    };
    slider.addEventListener("input", () => {
        set(show(Number(slider.value)));
        if (oninput) oninput(number());
    });
    /** Changes the limits of both inputs; the value stays within them. */
    const setLimits = (/** @type {number} */ min, /** @type {number} */ max) => {
        for (const input of [slider, box]) Object.assign(input, { min, max });
        Object.assign(rules, { low: min, high: max });
        Object.assign(limits, { min, max });
        set(Math.min(Math.max(Number(box.value) || min, min), max));
    };
    follow(options.value);
    return Object.assign(element, { box, check, get: number, set, setLimits, setEmpty });
}
