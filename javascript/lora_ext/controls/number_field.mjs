// Number fields: an error is shown beside the field. An empty field is its usual value or an error, never 0.
import { h } from "../core/elements.mjs";
import { FieldError } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { field, textInput } from "./basic.mjs";
import { accepted, numberError, numberValue } from "./number_rules.mjs";

/** @typedef {import("./number_rules.mjs").NumberRules} NumberRules */

let fields = 0;

/**
 * Makes an input a number field.
 * @param {HTMLInputElement} input
 * @param {NumberRules} rules may be changed later
 * @param {() => void} [onchange] called after each change, to a right or a wrong text
 * @returns the line that shows the error, to be placed beside the input; check(): the error, "" where there is none;
 * number(): the value, or it throws FieldError
 */
export function asNumber(input, rules, onchange) {
    const message = h("small", { class: "lx-wrong", id: `lx-wrong-${++fields}`, role: "alert", hidden: true });
    if (rules.usual !== undefined) input.placeholder = String(rules.usual);
    const check = () => {
        // where a browser takes no number from what was typed, the input's value is empty
        const error = input.validity.badInput
            ? t("This is not {0}.", accepted(rules))
            : numberError(input.value.trim(), rules);
        message.textContent = error;
        message.hidden = !error;
        if (error) input.setAttribute("aria-describedby", message.id);
        else input.removeAttribute("aria-describedby");
        input.setAttribute("aria-invalid", String(Boolean(error)));
        return error;
    };
    const number = () => {
        const error = check();
        if (error) throw new FieldError(error, input);
        return numberValue(input.value.trim(), rules);
    };
    input.addEventListener("input", () => {
        check();
        if (onchange) onchange();
    });
    return { message, check, number };
}

/**
 * A labelled number field.
 * @param {string} label
 * @param {string | number | null} value
 * @param {NumberRules & { tip?: string, placeholder?: string, oninput?: () => void }} options
 */
export function numberField(label, value, { tip = "", placeholder = "", oninput, ...rules }) {
    const inputmode = (rules.low ?? -1) >= 0 ? "decimal" : "text";
    const box = textInput(value ?? "", null, { inputmode, placeholder: placeholder || null });
    const { message, check, number } = asNumber(box, rules, oninput);
    const element = field(label, box, tip);
    element.append(message);
    return Object.assign(element, {
        box,
        check,
        get: number,
        /** @param {string | number | null | undefined} to */
        set(to) {
            box.value = String(to ?? "");
            check();
        },
    });
}
