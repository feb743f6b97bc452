// Elements of the page. Text from files reaches the page as text nodes only: nothing here builds markup from strings.

const SVG = "http://www.w3.org/2000/svg";

/** @typedef {import("../element_types").Child} Child text, an element, or a list of them; null and false are nothing */
/** @typedef {Record<string, any>} Attributes names as in HTML; `onclick` and the like are event listeners */

/**
 * @param {Element} element
 * @param {string} name
 * @param {any} value
 */
function setAttribute(element, name, value) {
    if (typeof value === "boolean" && name.startsWith("aria-")) {
        element.setAttribute(name, String(value)); // false is a state too, and true is no empty text
    } else if (value === null || value === undefined || value === false) {
        return;
    } else if (name.startsWith("on")) {
        element.addEventListener(name.slice(2), value);
    } else if (name === "value" && "value" in element) {
        element.value = value;
    } else if (name === "style") {
        const style = /** @type {HTMLElement} */ (element).style;
        for (const [property, setting] of Object.entries(value)) style.setProperty(property, setting);
    } else {
        element.setAttribute(name, value === true ? "" : value);
    }
}

/**
 * @template {Element} E
 * @param {E} element
 * @param {Attributes | null | undefined} attributes
 * @param {Child[]} children
 */
function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) setAttribute(element, name, value);
    for (const child of /** @type {any[]} */ (children).flat(Infinity)) {
        if (child === null || child === undefined || child === false) continue;
        element.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return element;
}

/**
 * An HTML element: h("p", { class: "x", onclick }, "text", child, …). Null and false children are left out.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes | null} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/**
 * The same for SVG.
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes | null} [attributes]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/**
 * Replaces all children of an element.
 * @param {Element} element
 * @param {...Child} children
 */
export function setChildren(element, ...children) {
    element.replaceChildren();
    return fill(element, {}, children);
}

/**
 * Shows `rows` as the children of `place`. A row that stays as it is keeps its element, so that no click on it is lost.
 * @template Row
 * @param {HTMLElement} place
 * @param {Row[]} rows
 * @param {(row: Row) => string} key what a row's element depends on
 * @param {(row: Row) => HTMLElement} make a new row's element
 */
export function updateRows(place, rows, key, make) {
    const children = /** @type {HTMLElement[]} */ ([...place.children]);
    const before = new Map(children.map((child) => [child.dataset.key, child]));
    const wanted = rows.map((row) => ({ name: String(key(row)), row }));
    const kept = new Set(wanted.map(({ name }) => name));
    for (const [name, child] of before) if (!kept.has(String(name))) child.remove();
    wanted.forEach(({ name, row }, i) => {
        let element = before.get(name);
        if (!element) {
            element = make(row);
            element.dataset.key = name;
        }
        if (place.children[i] !== element) place.insertBefore(element, place.children[i] || null);
    });
    return place;
}
