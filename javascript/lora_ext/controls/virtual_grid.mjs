// A grid of many cards of which only those in sight, and some around them, are in the page.
import { debounce } from "../core/debounce.mjs";
import { updateRows } from "../core/elements.mjs";

/** How many rows of cards above and below those in sight are in the page. */
const ROWS_AROUND = 4;
/** Height of a row of cards in pixels, before one was measured. */
const FIRST_ROW_HEIGHT = 80;
/** Milliseconds without scrolling after which missing items are asked for. */
const SCROLL_PAUSE = 60;
/** How many items are kept; of more, those far from the part in sight are forgotten and asked for again. */
const MOST_KEPT = 2000;

/**
 * Which items of a grid are in the page, and the heights of the empty spaces above and below them.
 * @param {object} sizes
 * @param {number} sizes.scrollTop
 * @param {number} sizes.height of the part in sight
 * @param {number} sizes.rowHeight with the gap below it
 * @param {number} sizes.columns
 * @param {number} sizes.total how many items there are
 */
export function gridWindow({ scrollTop, height, rowHeight, columns, total }) {
    const rows = Math.ceil(total / columns);
    const lastTop = Math.max(0, rows * rowHeight - height);
    const top = Math.floor(Math.min(scrollTop, lastTop) / rowHeight);
    const firstRow = Math.max(0, top - ROWS_AROUND);
    const endRow = Math.min(rows, top + Math.ceil(height / rowHeight) + 1 + ROWS_AROUND);
    return {
        first: firstRow * columns,
        end: Math.min(total, endRow * columns),
        above: firstRow * rowHeight,
        below: (rows - endRow) * rowHeight,
    };
}

/** @template Item */
export class VirtualGrid {
    /** Items by their position; those that have not arrived are missing. @type {Map<number, Item>} */
    items = new Map();
    total = 0;
    rowHeight = FIRST_ROW_HEIGHT;
    columns = 1;

    /**
     * @param {HTMLElement} box scrolls; holds `grid`
     * @param {HTMLElement} grid a CSS grid whose rows all have the same height
     * @param {object} parts
     * @param {(item: Item, position: number) => string} parts.key what an item's card depends on
     * @param {(item: Item, position: number) => HTMLElement} parts.card
     * @param {() => HTMLElement} parts.waiting what is shown for an item that has not arrived
     * @param {() => HTMLElement} parts.empty what is shown without items
     * @param {(first: number, end: number) => void} parts.ask asks for missing items of the part in sight
     * @param {() => void} [parts.shown] called whenever other cards may be in the page
     */
    constructor(box, grid, { key, card, waiting, empty, ask, shown = () => {} }) {
        this.box = box;
        this.grid = grid;
        this.key = key;
        this.card = card;
        this.waiting = waiting;
        this.empty = empty;
        this.shown = shown;
        this.askLater = debounce(SCROLL_PAUSE, () => {
            const { first, end } = this.window();
            if (this.isMissing(first, end)) ask(first, end);
        });
        box.addEventListener("scroll", () => this.show());
        new ResizeObserver(() => requestAnimationFrame(() => this.show())).observe(box);
    }

    window() {
        const { scrollTop, clientHeight: height } = this.box;
        return gridWindow({ scrollTop, height, rowHeight: this.rowHeight, columns: this.columns, total: this.total });
    }

    /** @param {number} first @param {number} end */
    isMissing(first, end) {
        for (let i = first; i < end; i++) if (!this.items.has(i)) return true;
        return false;
    }

    /**
     * Shows other items. Those that were there are lost.
     * @param {Item[]} items
     * @param {number} offset the first one's position
     * @param {number} total
     */
    replace(items, offset, total) {
        this.items.clear();
        this.add(items, offset, total);
    }

    /**
     * Shows more items.
     * @param {Item[]} items
     * @param {number} offset the first one's position
     * @param {number} total
     */
    add(items, offset, total) {
        this.total = total;
        if (this.items.size > MOST_KEPT) this.forgetFarItems();
        items.forEach((item, i) => this.items.set(offset + i, item));
        this.show();
    }

    forgetFarItems() {
        const { first, end } = this.window();
        for (const position of this.items.keys()) {
            if (position < first - MOST_KEPT / 4 || position > end + MOST_KEPT / 4) this.items.delete(position);
        }
    }

    /** Brings an item into the part in sight. @param {number} position */
    reveal(position) {
        const top = Math.floor(position / this.columns) * this.rowHeight;
        const { scrollTop, clientHeight } = this.box;
        this.box.scrollTop = Math.min(Math.max(scrollTop, top + this.rowHeight - clientHeight), top);
        this.show();
    }

    /** Brings an item to the top of the part in sight. @param {number} position */
    scrollTo(position) {
        this.box.scrollTop = Math.floor(position / this.columns) * this.rowHeight;
        this.show();
    }

    /** Measures the columns and an item's row. @returns whether they changed */
    measure() {
        const first = /** @type {HTMLElement | null} */ (this.grid.firstElementChild);
        if (!this.items.has(this.window().first) || !first || !first.offsetHeight) return false;
        const { gridTemplateColumns, rowGap } = getComputedStyle(this.grid);
        const columns = gridTemplateColumns.split(" ").length;
        const rowHeight = first.getBoundingClientRect().height + (parseFloat(rowGap) || 0);
        const changed = columns !== this.columns || Math.abs(rowHeight - this.rowHeight) > 0.01;
        Object.assign(this, { columns, rowHeight });
        return changed;
    }

    /** Puts the cards of the part in sight into the page. */
    show() {
        this.showWindow();
        if (this.measure()) this.showWindow();
        this.askLater();
    }

    showWindow() {
        const { first, end, above, below } = this.window();
        const hadFocus = this.grid.contains(document.activeElement);
        const positions = Array.from({ length: end - first }, (_, i) => first + i);
        updateRows(
            this.grid,
            positions.length ? positions : [-1],
            (i) => this.keyAt(i),
            (i) => this.cardAt(i),
        );
        this.grid.style.paddingTop = `${above}px`;
        this.grid.style.paddingBottom = `${below}px`;
        // A focused card that left the page would take the keyboard with it: arrow keys and Page Down go on scrolling.
        if (hadFocus && !this.grid.contains(document.activeElement)) this.box.focus({ preventScroll: true });
        this.shown();
    }

    /** @param {number} i a position; -1 where there are no items */
    keyAt(i) {
        const item = this.items.get(i);
        return item !== undefined ? this.key(item, i) : i < 0 ? "" : `waiting ${i}`;
    }

    /** @param {number} i as for `keyAt` */
    cardAt(i) {
        const item = this.items.get(i);
        return item !== undefined ? this.card(item, i) : i < 0 ? this.empty() : this.waiting();
    }
}
