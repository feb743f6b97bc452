// What every part of the page reads: the tab's element, and what the program offers. Set before any panel is built.

/** @typedef {import("../api_types").Choices} Choices */
/** @typedef {import("../api_types").LayoutsAnswer} Layouts */

/** @type {{ root: HTMLElement, choices: Choices, layouts: Layouts }} */
export const page = {
    root: /** @type {any} */ (null),
    choices: /** @type {any} */ (null),
    layouts: /** @type {any} */ (null),
};

/** Whether the page is so narrow that charts are drawn in their small size. */
export const isNarrow = () => page.root.clientWidth < 640;
