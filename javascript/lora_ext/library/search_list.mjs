// A searchable list of the LoRA files; moved through with the arrow keys.
import { debounce } from "../core/debounce.mjs";
import { h } from "../core/elements.mjs";
import { on } from "../core/events.mjs";
import { pageWords } from "../core/server_sentences.mjs";
import { t } from "../core/strings.mjs";
import { searchInput } from "../controls/basic.mjs";
import { LibraryGrid } from "./library_grid.mjs";
import { describeRow, folderText, markText, rowKey, thumbnail } from "./lora_row.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */

let lists = 0;

/**
 * Which files the list asks for: the best matches of a search first, else the newest.
 * @param {string} search
 */
export const listQuery = (search) => ({ search, sort: search.trim() ? "match" : "newest" });

/** The field to search LoRA files by name. */
export const nameSearch = () =>
    searchInput({
        placeholder: t("Search"),
        "aria-label": t("Search"),
        title: t("Any words of its name, trigger words, notes, tags or base model, in any order"),
    });

export class SearchList {
    /** The position that the arrow keys have reached; -1 for none. */
    marked = -1;
    /** The search whose matches are shown. */
    shownSearch = "";
    /** Whether Enter was pressed before the row that it chooses had arrived. */
    pickOnLoad = false;

    /** @param {(row: LibraryRow) => void} pick */
    constructor(pick) {
        this.pick = pick;
        this.id = `lx-files-${++lists}`;
        this.search = nameSearch();
        this.search.setAttribute("role", "combobox");
        this.search.setAttribute("aria-expanded", "true");
        this.search.setAttribute("aria-autocomplete", "list");
        this.search.setAttribute("aria-controls", this.id);
        this.list = h("div", { class: "lx-items", id: this.id, role: "listbox", "aria-label": t("LoRA files") });
        this.box = h("div", { class: "lx-list" }, this.list);
        this.count = h("span", { class: "lx-spoken", role: "status" });
        this.element = h("div", { class: "lx-pop", hidden: true }, this.search, this.count, this.box);
        /** @type {LibraryGrid} */
        this.files = new LibraryGrid(this.box, this.list, {
            query: () => listQuery(this.search.value),
            key: (row, position) => `${position}|${rowKey(row)}`,
            card: (row, position) => this.item(row, position),
            loaded: ({ total }, { search }) => {
                this.shownSearch = String(search);
                this.marked = -1;
                this.count.textContent = t("{0} files", total);
            },
            shown: () => this.showMarked(),
        });
        this.search.addEventListener(
            "input",
            debounce(150, () => this.load()),
        );
        this.element.addEventListener("keydown", (event) => this.handleKey(event));
        on("library", () => !this.element.hidden && this.box.scrollTop === 0 && this.load());
    }

    load() {
        return this.files.load();
    }

    /** @param {LibraryRow} row @param {number} position @returns {HTMLElement} */
    item(row, position) {
        return h(
            "button",
            {
                type: "button",
                role: "option",
                id: `${this.id}-${position}`,
                tabindex: -1,
                "aria-selected": "false",
                "aria-setsize": this.files.grid.total,
                "aria-posinset": position + 1,
                class: "lx-item",
                title: row.name,
                onclick: () => this.pick(row),
            },
            thumbnail(row),
            h(
                "span",
                { class: "lx-pick-text" },
                h("b", {}, row.title),
                h(
                    "small",
                    {},
                    [folderText(row), describeRow(row) || pageWords(row.error || ""), markText(row)].join(" "),
                ),
            ),
        );
    }

    /** Tells which row the arrow keys have reached, and picks it where Enter has waited for it. */
    showMarked() {
        const marked = `${this.id}-${this.marked}`;
        let found = false;
        for (const item of this.list.children) {
            if (item.getAttribute("role") !== "option") continue; // a row that has not arrived
            const isMarked = item.id === marked;
            item.setAttribute("aria-selected", String(isMarked));
            found ||= isMarked;
        }
        if (found) this.search.setAttribute("aria-activedescendant", marked);
        else this.search.removeAttribute("aria-activedescendant");
        if (this.pickOnLoad) this.pickMarked();
    }

    /** @param {number} to */
    mark(to) {
        this.marked = Math.max(0, Math.min(this.files.grid.total - 1, to));
        this.files.grid.reveal(this.marked);
    }

    /** Picks the marked file, else the first one; once it has arrived, where the search is newer than the list. */
    pickMarked() {
        const row = this.files.grid.items.get(Math.max(0, this.marked));
        this.pickOnLoad = this.shownSearch !== this.search.value || (!row && this.files.grid.total > 0);
        if (!this.pickOnLoad && row) this.pick(row);
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
