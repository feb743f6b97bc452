// The Files panel: the LoRA files as cards, and one file's details.
import { api } from "../core/api.mjs";
import { debounce } from "../core/debounce.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { on } from "../core/events.mjs";
import { formatBytes, formatDate } from "../core/format.mjs";
import { messageOf, showingErrors } from "../core/messages.mjs";
import { itemShown, registerPanel, showPanel } from "../core/panels.mjs";
import { pageWords } from "../core/server_sentences.mjs";
import { t } from "../core/strings.mjs";
import { button, card, note, buttonRow, select } from "../controls/basic.mjs";
import { registerJobOpener } from "../jobs/job_openers.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { showFile } from "../library/file_details.mjs";
import { LibraryGrid } from "../library/library_grid.mjs";
import { nameSearch } from "../library/search_list.mjs";
import { describeRow, familyName, rowKey, thumbnail } from "../library/lora_row.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */
/** @typedef {import("../api_types").LibraryPage} LibraryPage */

/** @type {{ find: (name: string) => Promise<void>, duplicates: JobView, chosen: () => string }} */
let parts;

/**
 * A field that filters the list by one property of the files.
 * @param {"base" | "kind" | "rank"} name
 * @param {string} any text of the option that shows all
 * @param {() => void} onchange
 */
function listFilter(name, any, onchange) {
    const element = select([["", any]], "", onchange, { "aria-label": any, title: t("Show only these") });
    return {
        name,
        element,
        /** Shows the values that there are, with their counts; the chosen one stays. */
        showFacets(/** @type {LibraryPage["facets"]} */ facets) {
            const chosen = element.value;
            const values = Object.entries(facets[name]).map(([value, count]) =>
                h("option", { value }, `${familyName(value)} (${count})`),
            );
            setChildren(element, h("option", { value: "" }, any), values);
            element.value = chosen;
        },
    };
}

/** The fields above the list. @param {() => void} onchange */
function listFilters(onchange) {
    const search = nameSearch();
    search.addEventListener("input", debounce(180, onchange));
    const filters = [
        listFilter("base", t("any base"), onchange),
        listFilter("kind", t("any kind"), onchange),
        listFilter("rank", t("any rank"), onchange),
    ];
    const sort = select(
        [
            ["newest", t("newest first")],
            ["oldest", t("oldest first")],
            ["name", t("by name")],
            ["largest", t("largest first")],
        ],
        "newest",
        onchange,
        { "aria-label": t("Order"), title: t("In which order files are listed") },
    );
    return {
        elements: [search, filters.map(({ element }) => element), sort],
        query: () => ({
            search: search.value,
            sort: sort.value,
            ...Object.fromEntries(filters.map(({ name, element }) => [name, element.value])),
        }),
        /** Shows what there is to filter by. */
        showFacets(/** @type {LibraryPage["facets"]} */ facets) {
            for (const filter of filters) filter.showFacets(facets);
        },
        /** Searches for one name among all files. */
        searchFor(/** @type {string} */ name) {
            search.value = name;
            for (const { element } of filters) element.value = "";
        },
    };
}

/**
 * A file as a button.
 * @param {LibraryRow} row
 * @param {boolean} pressed
 * @param {(name: string) => void} onclick
 */
const fileCard = (row, pressed, onclick) =>
    h(
        "button",
        {
            type: "button",
            class: "lx-file",
            "aria-pressed": pressed,
            "data-name": row.name,
            title: row.name,
            onclick: () => onclick(row.name),
        },
        thumbnail(row),
        h(
            "span",
            { class: "lx-pick-text" },
            h("b", {}, row.title),
            h("small", {}, describeRow(row) || pageWords(row.error || "")),
            h("small", {}, `${formatBytes(row.bytes)} · ${formatDate(row.time)}`),
        ),
    );

/** How many files match, and what could not be read. @param {LibraryPage} page */
const countTexts = ({ total, pending, errors }) => [
    t("{0} files", total),
    pending ? ` · ${t("{0} still being read", pending)}` : "",
    errors.map((error) => note(error, "bad")),
];

/**
 * The list; files are asked for as they come into sight.
 * @param {(name: string) => void} show
 * @param {() => string} chosen the name of the file that is shown
 */
function fileList(show, chosen) {
    const filters = listFilters(() => files.load());
    const count = h("span", { class: "lx-hint", role: "status" });
    const cards = h("div", { class: "lx-cards" });
    const box = h("div", { class: "lx-file-list", tabindex: 0, role: "region", "aria-label": t("LoRA files") }, cards);
    const cardOf = (/** @type {LibraryRow} */ row) => fileCard(row, chosen() === row.name, show);
    const files = new LibraryGrid(box, cards, {
        query: filters.query,
        key: rowKey,
        card: cardOf,
        loaded: (page) => {
            setChildren(count, countTexts(page));
            filters.showFacets(page.facets);
        },
    });
    return { filters, count, cards, cardOf, box, load: files.load };
}

/** @param {(row: LibraryRow) => HTMLElement} cardOf */
const duplicatesView = (cardOf) =>
    new JobView({
        kinds: ["duplicates"],
        result: (/** @type {{ groups: LibraryRow[][] }} */ { groups }) => {
            if (!groups.length) return note(t("No two files have identical weights."), "good");
            return groups.map((group) => card(null, note(t("identical weights:")), group.map(cardOf)));
        },
    });

/**
 * The list and the details of the file that is chosen in it.
 * @param {HTMLElement} panel
 */
function listWithDetails(panel) {
    let chosen = "";
    const details = h("div", { class: "lx-detail" }, card(null, note(t("Choose a file to see what is in it."))));
    const show = showingErrors(async (/** @type {string} */ name) => {
        chosen = name;
        itemShown("files");
        for (const one of /** @type {HTMLElement[]} */ ([...list.cards.children])) {
            one.setAttribute("aria-pressed", String(one.dataset.name === name));
        }
        details.classList.add("busy");
        try {
            const file = await api("/inspect", { query: { name } });
            if (chosen === name) showFile(details, file, changes);
        } catch (error) {
            setChildren(details, card(name, note(messageOf(error), "bad")));
        }
        details.classList.remove("busy");
        if (panel.clientWidth < 860) details.scrollIntoView({ block: "start", behavior: "smooth" });
    });
    const list = fileList(show, () => chosen);
    const changes = {
        renamed: async (/** @type {string} */ name) => {
            await list.load();
            show(name);
        },
        saved: () => void list.load({ keep: true }),
        pictureChanged: () => void list.load({ keep: true }),
    };
    return { list, details, show, chosen: () => chosen };
}

/** @param {HTMLElement} panel */
function build(panel) {
    const { list, details, show, chosen } = listWithDetails(panel);
    const duplicates = duplicatesView(list.cardOf);
    const find = button(t("Find duplicates"), () => duplicates.run("/duplicates"), {
        kind: "quiet",
        tip: t("Files with identical weights under different names"),
    });
    const top = [
        h("div", { class: "lx-filters" }, list.filters.elements),
        buttonRow(list.count, h("span", { class: "lx-grow" }), find),
    ];
    const main = h("div", { class: "lx-main" }, card(null, top, duplicates.element, list.box));
    setChildren(panel, h("div", { class: "lx-files-grid" }, main, details));
    list.load();
    on("library", () => list.load({ keep: true }));
    parts = {
        duplicates,
        chosen,
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
registerPanel({
    name: "files",
    title: () => t("Files"),
    tip: () => t("The library: search, metadata, duplicates"),
    order: 60,
    build,
    item: () => parts.chosen(),
    open: (/** @type {string | undefined} */ name) => name && parts.find(name),
});
