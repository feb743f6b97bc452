// A button that opens a searchable list of the LoRA files, to choose one.
import { api } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { closeOnEscape } from "../core/escape.mjs";
import { showingErrors } from "../core/messages.mjs";
import { loadStored } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { describeRow, folderText, thumbnail } from "./lora_row.mjs";
import { SearchList } from "./search_list.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */
/** @typedef {import("../api_types").LibraryPage} LibraryPage */

export class LoraPicker {
    /** @type {LibraryRow | null} the chosen file */
    value = null;
    /** Counts choices, so that an older answer changes no newer one. */
    choices = 0;
    /** Ends closing the list with Escape. */
    stopEscape = () => {};

    /**
     * @param {object} options
     * @param {string} [options.label]
     * @param {string} [options.tip]
     * @param {(row: LibraryRow) => void} [options.onpick] called when a file is chosen, by the user or by `choose`
     */
    constructor({ label = "", tip = "", onpick = () => {} }) {
        this.onpick = onpick;
        this.face = h("button", {
            type: "button",
            class: "lx-pick",
            "aria-haspopup": "listbox",
            "aria-expanded": "false",
            title: tip || t("Choose a LoRA file"),
            onclick: () => (this.list.element.hidden ? this.open() : this.close()),
        });
        this.list = new SearchList((row) => this.pick(row));
        const title = label ? h("span", { class: "lx-label" }, label) : null;
        this.choice = h("span", { class: "lx-spoken", role: "status" });
        this.element = h("div", { class: "lx-field lx-picker" }, title, this.face, this.choice, this.list.element);
        this.showChosen();
    }

    showChosen() {
        const row = this.value;
        const text = h(
            "span",
            { class: "lx-pick-text" },
            h("b", {}, row ? row.title : t("Choose a LoRA")),
            h("small", {}, row ? [folderText(row), describeRow(row)].join(" ").trim() : t("newest first")),
        );
        setChildren(this.face, thumbnail(row), text, h("span", { class: "lx-chevron", "aria-hidden": "true" }));
    }

    open() {
        this.list.element.hidden = false;
        this.face.setAttribute("aria-expanded", "true");
        this.list.search.value = "";
        this.list.search.focus();
        this.list.load();
        document.addEventListener("pointerdown", this.closeOutside, true);
        this.stopEscape();
        this.stopEscape = closeOnEscape(
            () => true,
            () => {
                this.close();
                this.face.focus();
            },
        );
    }

    close() {
        this.list.element.hidden = true;
        this.list.pickOnLoad = false;
        this.face.setAttribute("aria-expanded", "false");
        document.removeEventListener("pointerdown", this.closeOutside, true);
        this.stopEscape();
    }

    closeOutside = (/** @type {Event} */ event) => {
        if (!this.element.contains(/** @type {Node} */ (event.target))) this.close();
    };

    /** @param {LibraryRow} row */
    pick(row) {
        const wasOpen = !this.list.element.hidden;
        this.choices += 1;
        this.value = row;
        this.close();
        this.showChosen();
        if (wasOpen) {
            this.face.focus();
            this.choice.textContent = t("Chosen: {0}", row.title);
        }
        this.onpick(row);
    }

    /**
     * Chooses the file of a name, unless another one was chosen meanwhile.
     *
     * Takes its name, and whether it is chosen only where none is. Resolves with the chosen file, null without one.
     */
    choose = showingErrors(async (/** @type {string} */ name, gentle = false) => {
        const mine = gentle ? this.choices : ++this.choices;
        const query = { search: name.split("/").pop() || "", sort: "match", limit: 500 };
        const page = /** @type {LibraryPage} */ (await api("/library", { query }));
        if (mine !== this.choices || (gentle && this.value)) return this.value;
        const found = page.rows.find((row) => row.name === name || row.call === name) || null;
        if (found) this.pick(found);
        return found;
    });

    /**
     * Chooses the file that was chosen last in this browser, else the newest one that fits a model, else the newest
     * one, where none is chosen.
     *
     * Takes the model that draws; in the web UI it is its own.
     */
    chooseFirst = showingErrors(async (/** @type {string} */ checkpoint) => {
        const last = loadStored("lora", "");
        if ((last && (await this.choose(last, true))) || this.value) return;
        const { row } = await api("/library/first", { query: { checkpoint } });
        if (!row || this.value) return;
        this.value = row;
        this.showChosen();
        this.onpick(row);
    });
}
