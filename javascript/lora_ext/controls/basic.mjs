// Buttons, fields and what stands around them.
import { h } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";

/** @typedef {import("../core/elements.mjs").Child} Child */
/** @typedef {import("../core/elements.mjs").Attributes} Attributes */
/** @typedef {string | readonly [string | number, string, string?]} Option a value, or [value, text, tooltip] */
/** @typedef {readonly Option[]} Options */

/**
 * @param {string} text
 * @param {(event: MouseEvent) => void} onclick
 * @param {Attributes & { kind?: string, tip?: string }} [options] kind: "main" or "quiet"
 */
export const button = (text, onclick, { kind = "", tip = "", ...more } = {}) =>
    h("button", { type: "button", class: `lx-button ${kind}`, title: tip || null, onclick, ...more }, text);

/** @param {...Child} children */
export const summary = (...children) => h("summary", { title: t("Click to open or close") }, children);

let fields = 0;

/**
 * A labelled control.
 * @param {string} label
 * @param {HTMLElement} control
 * @param {string} [tip] its tooltip
 */
export function field(label, control, tip = "") {
    if (!control.id) control.id = `lx-${++fields}`;
    if (tip) control.title = tip;
    return h("div", { class: "lx-field" }, h("label", { for: control.id, title: tip || null }, label), control);
}

/**
 * @param {string | number} value
 * @param {((value: string) => void) | null} [oninput]
 * @param {Attributes} [more]
 */
export function textInput(value, oninput = null, more = {}) {
    const input = h("input", {
        class: "lx-input",
        type: "text",
        value,
        autocomplete: "off",
        spellcheck: "false",
        oninput: () => oninput && oninput(input.value),
        ...more,
    });
    return input;
}

/**
 * A text area for a prompt or a caption.
 * @param {number} rows
 * @param {string} value
 * @param {Attributes} [more]
 */
export const textArea = (rows, value, more = {}) =>
    h("textarea", { class: "lx-input", rows, spellcheck: "false", value, ...more });

/** @param {Attributes} [more] */
export const searchInput = (more = {}) => h("input", { class: "lx-input", type: "search", ...more });

/** @param {Options} options */
export const optionRows = (options) =>
    options.map((one) => (typeof one === "string" ? /** @type {const} */ ([one, one]) : one));

/**
 * @param {Options} options
 * @param {string | number} value
 * @param {((value: string) => void) | null} [onchange]
 * @param {Attributes} [more]
 */
export function select(options, value, onchange = null, more = {}) {
    const made = h(
        "select",
        { class: "lx-input", onchange: () => onchange && onchange(made.value), ...more },
        optionRows(options).map(([key, text]) => h("option", { value: key }, text)),
    );
    made.value = String(value);
    return made;
}

/**
 * @param {string} label
 * @param {boolean} value
 * @param {((on: boolean) => void) | null} onchange
 * @param {string} [tip]
 */
export function checkbox(label, value, onchange, tip = "") {
    const box = h("input", { type: "checkbox", onchange: () => onchange && onchange(box.checked) });
    box.checked = value;
    const element = h("label", { class: "lx-check", title: tip || null }, box, h("span", {}, label));
    return Object.assign(element, { box });
}

/**
 * Buttons of which one is chosen.
 * @param {Options} options
 * @param {string | number} value
 * @param {(value: string) => void} onchange
 * @param {string} [label]
 */
export function segments(options, value, onchange, label) {
    const rows = optionRows(options);
    const made = h("div", {
        class: "lx-segments",
        role: "radiogroup",
        "aria-label": label || null,
        title: label || null,
    });
    const buttons = rows.map(([key, text, tip]) =>
        h(
            "button",
            { type: "button", role: "radio", title: tip || null, "data-value": key, onclick: () => choose(key) },
            text,
        ),
    );
    made.append(...buttons);
    /** @param {string | number} to */
    const set = (to) => {
        for (const one of buttons) {
            const on = one.dataset.value === String(to);
            one.setAttribute("aria-checked", String(on));
            one.tabIndex = on ? 0 : -1;
        }
    };
    /** @param {string | number} to */
    const choose = (to) => {
        set(to);
        const chosen = buttons.find((one) => one.dataset.value === String(to));
        if (chosen) chosen.focus();
        onchange(String(to));
    };
    made.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const at = buttons.findIndex((one) => one === document.activeElement);
        choose(rows[(at + step + rows.length) % rows.length][0]);
    });
    set(value);
    return Object.assign(made, { set });
}

/**
 * A part of a panel with a frame around it.
 * @param {string | null} title
 * @param {...Child} children
 */
export const card = (title, ...children) =>
    h("section", { class: "lx-card" }, title ? h("h3", {}, title) : null, children);

/**
 * A sentence that tells something.
 * @param {Child} text
 * @param {string} [kind] "bad" for an error, "good" for a result
 */
export const note = (text, kind = "") =>
    h("p", { class: `lx-note ${kind}`, role: kind === "bad" ? "alert" : null }, text);

/** @param {...Child} children */
export const buttonRow = (...children) => h("div", { class: "lx-row wrap" }, children);

/** @param {...Child} children */
export const stack = (...children) => h("div", { class: "lx-result" }, children);

/** @param {...Child} children */
export const grid = (...children) => h("div", { class: "lx-grid" }, children);

/**
 * A panel's two columns: the form, and what comes of it.
 * @param {string} kind a class that gives their widths
 * @param {readonly Child[]} side
 * @param {readonly Child[]} main
 */
export const columns = (kind, side, main) =>
    h("div", { class: `lx-split ${kind}` }, h("div", { class: "lx-side" }, side), h("div", { class: "lx-main" }, main));

/**
 * Names and values; a row without a value is left out.
 * @param {readonly (readonly [string, string | number | null | undefined])[]} rows
 */
export function facts(rows) {
    const given = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
    return h(
        "dl",
        { class: "lx-facts" },
        given.map(([name, value]) =>
            h("div", { class: String(value).length > 13 ? "wide" : null }, h("dt", {}, name), h("dd", {}, value)),
        ),
    );
}

/**
 * @param {string[]} heads
 * @param {Child[][]} rows
 */
export function table(heads, rows) {
    const isNumber = (/** @type {Child} */ value) =>
        typeof value === "number" || (typeof value === "string" && /^-?[\d.]+ %$/.test(value));
    const cell = (/** @type {Child} */ value) => h("td", { class: isNumber(value) ? "number" : null }, value);
    return h(
        "div",
        // a group, not a region: several tables of a page may have the same columns, and landmarks must differ
        { class: "lx-scroll", tabindex: 0, role: "group", "aria-label": heads.join(", ") },
        h(
            "table",
            { class: "lx-table" },
            h(
                "thead",
                {},
                h(
                    "tr",
                    {},
                    heads.map((head, i) =>
                        h("th", { scope: "col", class: rows.length && isNumber(rows[0][i]) ? "number" : null }, head),
                    ),
                ),
            ),
            h(
                "tbody",
                {},
                rows.map((values) => h("tr", {}, values.map(cell))),
            ),
        ),
    );
}

/**
 * A link that opens beside the page.
 * @param {string} href
 * @param {Attributes} attributes
 * @param {...Child} children
 */
export const outsideLink = (href, attributes, ...children) =>
    h("a", { href, target: "_blank", rel: "noopener", ...attributes }, children);
