// Numbered cards, and fields that say beside themselves what is wrong.
import { h } from "../core/elements.mjs";
import { FieldError } from "../core/messages.mjs";
import { field, textInput } from "../controls/basic.mjs";

/**
 * A numbered card.
 * @param {number} number
 * @param {string} title
 * @param {...import("../core/elements.mjs").Child} children
 */
export const stepCard = (number, title, ...children) =>
    h(
        "section",
        { class: "lx-card lx-step" },
        h("h3", {}, h("span", { class: "lx-step-number", "aria-hidden": true }, String(number)), title),
        children,
    );

/** A line that says what is wrong with `element`; `fail` shows it and throws. @param {HTMLElement} element */
export function errorLine(element) {
    const line = h("small", { class: "lx-wrong", role: "alert", hidden: true });
    const show = (/** @type {string} */ text) => {
        line.textContent = text;
        line.hidden = !text;
    };
    const fail = (/** @type {string} */ text) => {
        show(text);
        throw new FieldError(text, element);
    };
    return Object.assign(line, { show, fail });
}

/**
 * A text field.
 * @param {string} label
 * @param {string} value
 * @param {{ tip: string, placeholder: string, wrong?: (text: string) => string, onchange: () => void }} options wrong:
 * the error of a text, "" for none
 */
export function checkedField(label, value, { tip, placeholder, wrong = () => "", onchange }) {
    const mark = (/** @type {string} */ text) => {
        box.setAttribute("aria-invalid", String(Boolean(text)));
        line.show(text);
        return text;
    };
    const box = textInput(
        value,
        () => {
            mark("");
            onchange();
        },
        { placeholder },
    );
    const line = errorLine(box);
    const element = field(label, box, tip);
    line.id = `${box.id}-wrong`;
    box.setAttribute("aria-describedby", line.id);
    element.append(line);
    const text = () => box.value.trim();
    return {
        element,
        box,
        text,
        /** Throws FieldError where the text is not accepted. */
        check() {
            const error = mark(wrong(text()));
            if (error) line.fail(error);
        },
    };
}
