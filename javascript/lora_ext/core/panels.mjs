// The panels and the bar of tabs above them.
import { h } from "./elements.mjs";
import { parsePlace, showPlace } from "./page_address.mjs";
import { store } from "./storage.mjs";
import { t } from "./strings.mjs";

/**
 * @typedef {object} Panel
 * @property {string} name
 * @property {() => string} title
 * @property {() => string} tip its tab's tooltip
 * @property {number} order panels stand from the lowest to the highest
 * @property {(element: HTMLElement) => void} build fills its element, when it is first shown
 * @property {(...values: any[]) => void} [open] called each time it is shown, with the values given to `showPanel`
 * @property {() => string} [item] the file or the tool that it shows, for the page's address; "" for none
 * @property {() => boolean} [available] whether this program has it; without it, yes
 */
/** @typedef {Panel & { tab: HTMLElement, element: HTMLElement, built: boolean }} ShownPanel */

/** @type {Panel[]} */
const registered = [];
/** @type {ShownPanel[]} */
let shown = [];

/** @param {Panel} panel */
export function registerPanel(panel) {
    registered.push(panel);
    registered.sort((a, b) => a.order - b.order);
}

/**
 * Whether this program has a panel.
 * @param {string} name
 */
export const hasPanel = (name) => shown.some((panel) => panel.name === name);

/** @param {ShownPanel} panel */
function build(panel) {
    if (panel.built) return;
    panel.built = true;
    panel.build(panel.element);
}

/**
 * Builds a panel, where that has not happened, without showing it.
 * @param {string} name
 */
export function buildPanel(name) {
    const panel = shown.find((one) => one.name === name);
    if (panel) build(panel);
}

/**
 * Shows a panel, the first one where there is none of this name, and writes it into the page's address.
 * @param {string} name
 * @param {...any} values for its `open`
 */
export function showPanel(name, ...values) {
    const panel = openPanel(name, values);
    if (!panel) return;
    const [first] = values;
    showPlace({ panel: panel.name, item: typeof first === "string" ? first : itemOf(panel) });
}

/** @param {ShownPanel} panel */
const itemOf = (panel) => (panel.item && panel.item()) || "";

/**
 * Called by a panel when it shows another item.
 * @param {string} name
 */
export function itemShown(name) {
    const panel = shown.find((one) => one.name === name);
    if (panel && !panel.element.hidden) showPlace({ panel: name, item: itemOf(panel) });
}

/** Shows the panel that the page's address names. Returns whether it names one. */
export function showAddressedPanel() {
    const place = parsePlace(location.hash);
    if (!place || !hasPanel(place.panel)) return false;
    openPanel(place.panel, place.item ? [place.item] : []);
    return true;
}

/**
 * Shows a panel as `showPanel` does; the page's address stays.
 * @param {string} name
 * @param {any[]} [values]
 */
export function openPanel(name, values = []) {
    const panel = shown.find((one) => one.name === name) || shown[0];
    if (!panel) return null;
    for (const one of shown) {
        const selected = one === panel;
        one.tab.setAttribute("aria-selected", String(selected));
        one.tab.tabIndex = selected ? 0 : -1;
        one.element.hidden = !selected;
    }
    store("panel", panel.name);
    build(panel);
    if (panel.open) panel.open(...values);
    return panel;
}

/**
 * @param {Panel} panel
 * @returns {ShownPanel}
 */
function withElements(panel) {
    const { name } = panel;
    const tab = h(
        "button",
        {
            type: "button",
            role: "tab",
            id: `lx-tab-${name}`,
            title: panel.tip(),
            "aria-controls": `lx-panel-${name}`,
            onclick: () => showPanel(name),
        },
        panel.title(),
    );
    const element = h("div", {
        class: `lx-panel lx-${name}`,
        role: "tabpanel",
        id: `lx-panel-${name}`,
        "aria-labelledby": tab.id,
        hidden: true,
    });
    return { ...panel, tab, element, built: false };
}

/** Makes the bar of tabs and the empty panels. */
export function makePanels() {
    shown = registered.filter((panel) => !panel.available || panel.available()).map(withElements);
    const bar = h(
        "div",
        { class: "lx-tabs", role: "tablist", "aria-label": t("LoRA tools") },
        shown.map((panel) => panel.tab),
    );
    bar.addEventListener("keydown", (event) => {
        const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
        if (!step) return;
        const at = shown.findIndex((panel) => panel.tab === document.activeElement);
        const next = shown[(at + step + shown.length) % shown.length];
        if (!next) return;
        next.tab.focus();
        showPanel(next.name);
    });
    return { bar, panels: shown.map((panel) => panel.element), first: shown[0] ? shown[0].name : "" };
}
