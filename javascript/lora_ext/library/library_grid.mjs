// The LoRA files that a query finds, as a grid: pages are asked for as they come into sight.
import { api } from "../core/api.mjs";
import { h } from "../core/elements.mjs";
import { showingErrors } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { note } from "../controls/basic.mjs";
import { VirtualGrid } from "../controls/virtual_grid.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */
/** @typedef {import("../api_types").LibraryPage} LibraryPage */
/** @typedef {import("../core/api.mjs").Query} Query */

const PAGE_SIZE = 60,
    MOST_ROWS = 500;

/**
 * Which rows are asked for, in whole pages.
 * @param {number} first position of the first row that is needed
 * @param {number} end position behind the last one
 */
export function pagesOf(first, end) {
    const offset = Math.floor(first / PAGE_SIZE) * PAGE_SIZE;
    const pages = Math.max(1, Math.ceil((end - offset) / PAGE_SIZE));
    return { offset, limit: Math.min(pages * PAGE_SIZE, MOST_ROWS) };
}

export class LibraryGrid {
    /** @type {AbortController | null} */
    asked = null;
    /** How many answers are awaited that replace all rows. */
    loads = 0;

    /**
     * @param {HTMLElement} box scrolls; holds `cards`
     * @param {HTMLElement} cards a CSS grid
     * @param {object} parts
     * @param {() => Query} parts.query which files, in which order
     * @param {(row: LibraryRow, position: number) => string} parts.key what a row's card depends on
     * @param {(row: LibraryRow, position: number) => HTMLElement} parts.card
     * @param {(page: LibraryPage, query: Query) => void} [parts.loaded] called with the first page of other files
     * @param {() => void} [parts.shown] called whenever other cards may be in the page
     */
    constructor(box, cards, { query, key, card, loaded = () => {}, shown = () => {} }) {
        this.box = box;
        this.query = query;
        this.loaded = loaded;
        this.grid = new VirtualGrid(box, cards, {
            key,
            card,
            shown,
            waiting: () => h("div", { class: "lx-file-waiting", "aria-hidden": "true" }),
            empty: () => note(t("No file matches.")),
            ask: showingErrors(async (/** @type {number} */ first, /** @type {number} */ end) => {
                if (this.loads) return; // its answer is shown, and then what is missing is asked for again
                const { page, offset } = await this.ask(first, end);
                this.grid.add(page.rows, offset, page.total);
            }),
        });
    }

    /** @param {number} first @param {number} end */
    async ask(first, end) {
        if (this.asked) this.asked.abort();
        this.asked = new AbortController();
        const query = { ...this.query(), ...pagesOf(first, end) };
        return { page: await api("/library", { query, signal: this.asked.signal }), offset: query.offset, query };
    }

    /** Asks for other files. keep: the list stays where it is, because files came or went. */
    load = showingErrors(async ({ keep = false } = {}) => {
        const { first, end } = keep ? this.grid.window() : { first: 0, end: 0 };
        this.loads += 1;
        const { page, offset, query } = await this.ask(first, end).finally(() => (this.loads -= 1));
        if (!keep) this.box.scrollTop = 0;
        this.loaded(page, query);
        this.grid.replace(page.rows, offset, page.total);
    });
}
