// A searchable list of the LoRA files, a page of the library at a time; moved through with the arrow keys.
import { api } from "../core/api.mjs";
import { debounce } from "../core/debounce.mjs";
import { h, updateRows } from "../core/elements.mjs";
import { on } from "../core/events.mjs";
import { showingErrors } from "../core/messages.mjs";
import { pageWords } from "../core/server_sentences.mjs";
import { t } from "../core/strings.mjs";
import { note, searchInput } from "../controls/basic.mjs";
import { describeRow, rowKey, thumbnail } from "./lora_row.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */
/** @typedef {import("../api_types").LibraryPage} LibraryPage */

const PAGE_SIZE = 40;
let lists = 0;

/**
 * Which files the list asks for: the best matches of a search first, else the newest.
 * @param {string} search
 * @param {number} offset how many are shown already
 */
export const listQuery = (search, offset) => ({
    search,
    sort: search.trim() ? "match" : "newest",
    limit: PAGE_SIZE,
    offset,
});

/** The field to search LoRA files by name. */
export const nameSearch = () =>
    searchInput({
        placeholder: t("Search by name"),
        "aria-label": t("Search by name"),
        title: t("Any words of its name, in any order"),
    });

export class SearchList {
    /** @type {LibraryRow[]} */
    rows = [];
    total = 0;
    /** The row that the arrow keys have reached; -1 for none. */
    marked = -1;
    /** The search whose matches are shown. */
    shownSearch = "";
    /** Whether Enter was pressed before the matches of the search had arrived. */
    pickOnLoad = false;
    /** @type {AbortController | null} */
    asked = null;

    /** @param {(row: LibraryRow) => void} pick */
    constructor(pick) {
        this.pick = pick;
        this.id = `lx-files-${++lists}`;
        this.search = nameSearch();
        this.search.setAttribute("role", "combobox");
        this.search.setAttribute("aria-expanded", "true");
        this.search.setAttribute("aria-autocomplete", "list");
        this.search.setAttribute("aria-controls", this.id);
        this.list = h("div", { class: "lx-list", id: this.id, role: "listbox", "aria-label": t("LoRA files") });
        this.count = h("span", { class: "lx-spoken", role: "status" });
        this.element = h("div", { class: "lx-pop", hidden: true }, this.search, this.count, this.list);
        this.search.addEventListener(
            "input",
            debounce(150, () => this.load()),
        );
        this.list.addEventListener(
            "scroll",
            debounce(60, () => this.loadAtEnd()),
        );
        this.element.addEventListener("keydown", (event) => this.handleKey(event));
        on("library", () => !this.element.hidden && this.list.scrollTop === 0 && this.load());
    }

    /** @param {LibraryRow} row */
    item(row) {
        return h(
            "button",
            {
                type: "button",
                role: "option",
                tabindex: -1,
                "aria-selected": "false",
                class: "lx-item",
                title: row.name,
                onclick: () => this.pick(row),
            },
            thumbnail(row),
            h(
                "span",
                { class: "lx-pick-text" },
                h("b", {}, row.title),
                h("small", {}, describeRow(row) || pageWords(row.error || "")),
            ),
        );
    }

    /** Loads the first page, or one more. */
    load = showingErrors(async (more = false) => {
        if (this.asked) this.asked.abort();
        this.asked = new AbortController();
        const query = listQuery(this.search.value, more ? this.rows.length : 0);
        const page = /** @type {LibraryPage} */ (await api("/library", { signal: this.asked.signal, query }));
        this.rows = more ? [...this.rows, ...page.rows] : page.rows;
        this.total = page.total;
        this.shownSearch = query.search;
        if (!more) this.marked = -1;
        this.count.textContent = t("{0} files", page.total);
        updateRows(
            this.list,
            this.rows.length ? this.rows : [null],
            (row) => (row ? rowKey(row) : ""),
            (row) => (row ? this.item(row) : note(t("No file matches."))),
        );
        this.showMarked();
        if (this.pickOnLoad) this.pickMarked();
    });

    loadAtEnd() {
        const { scrollTop, clientHeight, scrollHeight } = this.list;
        if (scrollTop + clientHeight > scrollHeight - 200 && this.rows.length < this.total) this.load(true);
    }

    showMarked() {
        [...this.list.children].forEach((item, i) => {
            item.id = `${this.id}-${i}`;
            item.setAttribute("aria-selected", String(i === this.marked));
        });
        if (this.marked >= 0) this.search.setAttribute("aria-activedescendant", `${this.id}-${this.marked}`);
        else this.search.removeAttribute("aria-activedescendant");
    }

    /** @param {number} to */
    mark(to) {
        this.marked = Math.max(0, Math.min(this.rows.length - 1, to));
        this.showMarked();
        const item = this.list.children[this.marked];
        if (item) item.scrollIntoView({ block: "nearest" });
    }

    /** Picks the marked file, else the first one; once they have arrived, where the search is newer than the list. */
    pickMarked() {
        this.pickOnLoad = this.shownSearch !== this.search.value;
        if (!this.pickOnLoad && this.rows.length) this.pick(this.rows[Math.max(0, this.marked)]);
    }

    /** @param {KeyboardEvent} event */
    handleKey(event) {
        this.pickOnLoad = false;
        if (event.key === "ArrowDown") this.mark(this.marked + 1);
        else if (event.key === "ArrowUp") this.mark(this.marked - 1);
        else if (event.key === "Enter") this.pickMarked();
        else return undefined;
        return event.preventDefault();
    }
}
