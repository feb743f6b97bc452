// The Files panel: the library as cards, what can be done with several files, and one file's details.
import { api } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { closeOnEscape } from "../core/escape.mjs";
import { on } from "../core/events.mjs";
import { formatBytes, formatDate } from "../core/format.mjs";
import { showingErrors } from "../core/messages.mjs";
import { itemShown, registerPanel, showPanel } from "../core/panels.mjs";
import { pageWords } from "../core/server_sentences.mjs";
import { t } from "../core/strings.mjs";
import { button, card, note, buttonRow } from "../controls/basic.mjs";
import { undoKey } from "../controls/undo.mjs";
import { registerJobOpener } from "../jobs/job_openers.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { duplicateGroups } from "../library/duplicate_groups.mjs";
import { showFile } from "../library/file_details.mjs";
import { letterBar } from "../library/letter_bar.mjs";
import { listFilters } from "../library/library_filters.mjs";
import { LibraryGrid } from "../library/library_grid.mjs";
import { describeRow, markText, rowKey, thumbnail } from "../library/lora_row.mjs";
import { markedText } from "../library/marked_text.mjs";
import { Selection } from "../library/selection.mjs";
import { selectionBar } from "../library/selection_bar.mjs";
import { errorNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */
/** @typedef {import("../api_types").LibraryPage} LibraryPage */
/** @typedef {ReturnType<typeof fileList>} FileList */

/** @type {{ find: (name: string) => Promise<void>, duplicates: JobView, bulk: JobView, chosen: () => string }} */
let parts;

/**
 * The third line of a card: where a search was found outside the name, else size and date.
 * @param {LibraryRow} row
 * @param {string} search
 */
const lastLine = ({ found, bytes, time }, search) =>
    found ? [`${t(found.field)}: `, markedText(found.text, search)] : `${formatBytes(bytes)} · ${formatDate(time)}`;

/**
 * A file as a button.
 * @param {LibraryRow} row
 * @param {string} search whose words are marked
 * @param {boolean} pressed
 * @param {(event: MouseEvent) => void} onclick
 */
const fileCard = (row, search, pressed, onclick) =>
    h(
        "button",
        { type: "button", class: "lx-file", "aria-pressed": pressed, "data-name": row.name, title: row.name, onclick },
        thumbnail(row),
        h(
            "span",
            { class: "lx-pick-text" },
            h("b", {}, markedText(row.title, search)),
            h("small", {}, [describeRow(row) || pageWords(row.error || ""), markText(row)].filter(Boolean).join(" · ")),
            h("small", {}, lastLine(row, search)),
        ),
    );

/** How many files match, and what could not be read. @param {LibraryPage} page */
const countTexts = ({ total, pending, errors }) => [
    t("{0} files", total),
    pending ? ` · ${t("{0} still being read", pending)}` : "",
    errors.map((error) => note(pageWords(error), "bad")),
];

/**
 * The list; files are asked for as they come into sight.
 * @param {(name: string, event: MouseEvent) => void} click
 * @param {(name: string) => boolean} isPressed
 */
function fileList(click, isPressed) {
    let shownSearch = "";
    /** @type {LibraryPage["facets"]} */
    let facets = {};
    const filters = listFilters(() => files.load());
    const count = h("span", { class: "lx-hint", role: "status" });
    const cards = h("div", { class: "lx-cards" });
    const box = h("div", { class: "lx-file-list", tabindex: 0, role: "region", "aria-label": t("LoRA files") }, cards);
    const cardOf = (/** @type {LibraryRow} */ row) =>
        fileCard(row, shownSearch, isPressed(row.name), (event) => click(row.name, event));
    const paint = () => {
        for (const one of /** @type {HTMLElement[]} */ ([...cards.children])) {
            if (one.dataset.name) one.setAttribute("aria-pressed", String(isPressed(one.dataset.name)));
        }
    };
    /** @type {LibraryGrid} */
    const files = new LibraryGrid(box, cards, {
        query: filters.query,
        key: (row) => `${rowKey(row)}|${shownSearch}|${row.found ? row.found.text : ""}`,
        card: cardOf,
        shown: paint, // a card may have been kept from before
        loaded: (page, { search }) => {
            shownSearch = String(search);
            facets = page.facets;
            setChildren(count, countTexts(page));
            filters.showFacets(facets);
            letters.show(page.letters);
        },
    });
    const letters = letterBar((position) => files.grid.scrollTo(position));
    return {
        filters,
        count,
        cardOf,
        paint,
        box,
        element: h("div", { class: "lx-list-with-letters" }, box, letters.element),
        load: files.load,
        known: () => ({ tags: Object.keys(facets.tag || {}), folders: Object.keys(facets.folder || {}) }),
        allNames: async () => (await api("/library/names", { query: filters.query() })).names,
    };
}

/** @param {(row: LibraryRow) => HTMLElement} cardOf */
function duplicatesView(cardOf) {
    const view = new JobView({
        kinds: ["duplicates"],
        result: (/** @type {import("../api_types").DuplicatesResult} */ found) =>
            duplicateGroups(found, cardOf, () => view.clear()),
    });
    return view;
}

/**
 * The list, the details of the file that is chosen in it, and the files that are selected.
 * @param {HTMLElement} panel
 */
function listWithDetails(panel) {
    let chosen = "";
    const details = h("div", { class: "lx-detail" }, card(null, note(t("Choose a file to see what is in it."))));
    const selection = new Selection(() => (list.paint(), bar.show()));
    const show = showingErrors(async (/** @type {string} */ name) => {
        chosen = name;
        itemShown("files");
        list.paint();
        details.classList.add("busy");
        try {
            const file = await api("/inspect", { query: { name } });
            if (chosen === name) showFile(details, file, changes);
        } catch (error) {
            setChildren(details, card(name, errorNote(error)));
        }
        details.classList.remove("busy");
        if (panel.clientWidth < 860) details.scrollIntoView({ block: "start", behavior: "smooth" });
    });
    const click = showingErrors(async (/** @type {string} */ name, /** @type {MouseEvent} */ event) => {
        if (selection.isOn && event.shiftKey && selection.anchor) selection.extendTo(name, await list.allNames());
        else if (selection.isOn || event.ctrlKey || event.metaKey) selection.toggle(name);
        else await show(name);
    });
    const isPressed = (/** @type {string} */ name) => (selection.isOn ? selection.names.has(name) : name === chosen);
    const list = fileList(click, isPressed);
    const reload = async () => void (await list.load({ keep: true }));
    const bar = selectionBar(selection, { allNames: list.allNames, known: list.known, reload });
    const changes = {
        renamed: async (/** @type {string} */ name) => {
            await list.load();
            show(name);
        },
        saved: () => void reload(),
        pictureChanged: () => void reload(),
    };
    return { list, details, show, selection, bar, chosen: () => chosen };
}

/**
 * Ctrl+A selects all and Ctrl+Z takes the last move back, not while something is typed; Escape closes a form of the
 * selected files, then ends selecting.
 * @param {HTMLElement} main
 * @param {Selection} selection
 * @param {ReturnType<typeof selectionBar>} bar
 */
function listenToKeys(main, selection, bar) {
    main.addEventListener("keydown", (event) => {
        const isTyping = /** @type {Element} */ (event.target).matches("input, textarea, select");
        const control = event.ctrlKey || event.metaKey;
        if (isTyping) return;
        if (control && event.key === "a" && selection.isOn) bar.all();
        else if (undoKey(event) === "undo" && bar.canUndo()) bar.undo();
        else return;
        event.preventDefault();
    });
    const isShown = () => main.checkVisibility();
    closeOnEscape(
        () => selection.isOn && isShown(),
        () => selection.switch(false),
    );
    closeOnEscape(() => bar.forms.isOpen() && isShown(), bar.forms.close);
}

/** @param {HTMLElement} panel */
function build(panel) {
    const { list, details, show, selection, bar, chosen } = listWithDetails(panel);
    const duplicates = duplicatesView(list.cardOf);
    const find = button(t("Find duplicates"), () => duplicates.run("/duplicates"), {
        kind: "quiet",
        tip: t("Files that hold the same network: copies, other precisions and formats, lower ranks"),
    });
    const select = button(t("Select files"), () => selection.switch(!selection.isOn), {
        kind: "quiet",
        tip: t("Click files to select them; with Shift, all files between. Ctrl and a click begins too"),
    });
    const top = [
        h("div", { class: "lx-filters" }, list.filters.elements),
        list.filters.folders,
        buttonRow(list.count, h("span", { class: "lx-grow" }), select, find),
    ];
    const main = h("div", { class: "lx-main" }, card(null, top, bar.element, duplicates.element, list.element));
    listenToKeys(main, selection, bar);
    setChildren(panel, h("div", { class: "lx-files-grid" }, main, details));
    list.load();
    on("library", () => list.load({ keep: true }));
    parts = {
        duplicates,
        chosen,
        bulk: bar.job,
        find: async (name) => {
            list.filters.searchFor(name.split("/").pop() || "");
            await list.load();
            show(name);
        },
    };
}

registerJobOpener(["duplicates"], (job) => {
    showPanel("files");
    parts.duplicates.attach(job.id);
});
registerJobOpener(["delete", "strip"], (job) => {
    showPanel("files");
    parts.bulk.attach(job.id);
});
registerPanel({
    name: "files",
    title: () => t("Files"),
    tip: () => t("The library: search, tags, notes, metadata, duplicates"),
    order: 60,
    build,
    item: () => parts.chosen(),
    open: (/** @type {string | undefined} */ name) => name && parts.find(name),
});
