// The Files panel: the LoRA files as cards, and one file's details.
import { api } from "../core/api.mjs";
import { debounce } from "../core/debounce.mjs";
import { h, setChildren, updateRows } from "../core/elements.mjs";
import { on } from "../core/events.mjs";
import { formatBytes, formatDate } from "../core/format.mjs";
import { messageOf, showingErrors } from "../core/messages.mjs";
import { registerPanel, showPanel } from "../core/panels.mjs";
import { t } from "../core/strings.mjs";
import { button, card, note, buttonRow, select } from "../controls/basic.mjs";
import { registerJobOpener } from "../jobs/job_openers.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { showFile } from "../library/file_details.mjs";
import { nameSearch } from "../library/search_list.mjs";
import { describeRow, familyName, rowKey, thumbnail } from "../library/lora_row.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */
/** @typedef {import("../api_types").LibraryPage} LibraryPage */

const PAGE_SIZE = 60,
    MOST_ROWS = 500;

/** @type {{ find: (name: string) => Promise<void>, duplicates: JobView }} */
let parts;

/** The fields above the list. @param {() => void} onchange */
function listFilters(onchange) {
    const search = nameSearch();
    search.addEventListener("input", debounce(180, onchange));
    const any = { base: t("any base"), kind: t("any kind"), rank: t("any rank") };
    const filters = Object.entries(any).map(([name, text]) => ({
        name,
        text,
        element: select([["", text]], "", onchange, { "aria-label": text, title: t("Show only these") }),
    }));
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
            for (const { name, text, element } of filters) {
                const chosen = element.value;
                setChildren(
                    element,
                    h("option", { value: "" }, text),
                    Object.entries(facets[name]).map(([value, count]) =>
                        h("option", { value }, `${familyName(value)} (${count})`),
                    ),
                );
                element.value = chosen;
            }
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
            h("small", {}, describeRow(row) || row.error || ""),
            h("small", {}, `${formatBytes(row.bytes)} · ${formatDate(row.time)}`),
        ),
    );

/**
 * The list: a page more each time its end comes into sight.
 * @param {(name: string) => void} show
 * @param {() => string} chosen the name of the file that is shown
 */
function fileList(show, chosen) {
    /** @type {LibraryRow[]} */
    let rows = [];
    let total = 0;
    /** @type {AbortController | null} */
    let asked = null;
    const filters = listFilters(() => load());
    const count = h("span", { class: "lx-hint", role: "status" });
    const cards = h("div", { class: "lx-cards" });
    const cardOf = (/** @type {LibraryRow} */ row) => fileCard(row, chosen() === row.name, show);
    const showCount = (/** @type {LibraryPage} */ { pending, errors }) =>
        setChildren(
            count,
            t("{0} files", total),
            pending ? ` · ${t("{0} still being read", pending)}` : "",
            errors.map((error) => note(error, "bad")),
        );
    /** more: the next page. keep: as many as are shown now, because files came or went. */
    const load = showingErrors(async ({ more = false, keep = false } = {}) => {
        if (asked) asked.abort();
        asked = new AbortController();
        const limit = more ? PAGE_SIZE : Math.min(Math.max(PAGE_SIZE, keep ? rows.length : 0), MOST_ROWS);
        const query = { ...filters.query(), limit, offset: more ? rows.length : 0 };
        const page = /** @type {LibraryPage} */ (await api("/library", { query, signal: asked.signal }));
        rows = more ? [...rows, ...page.rows] : page.rows;
        total = page.total;
        updateRows(
            cards,
            rows.length ? rows : [null],
            (row) => (row ? rowKey(row) : ""),
            (row) => (row ? cardOf(row) : note(t("No file matches."))),
        );
        showCount(page);
        filters.showFacets(page.facets);
    });
    const end = h("div", { class: "lx-end", "aria-hidden": "true" });
    new IntersectionObserver(
        (entries) => {
            if (entries[0].isIntersecting && rows.length && rows.length < total) load({ more: true });
        },
        { rootMargin: "300px" },
    ).observe(end);
    const box = h(
        "div",
        { class: "lx-file-list", tabindex: 0, role: "region", "aria-label": t("LoRA files") },
        cards,
        end,
    );
    return { filters, count, cards, cardOf, box, load };
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

/** @param {HTMLElement} panel */
function build(panel) {
    let chosen = "";
    const details = h("div", { class: "lx-detail" });
    const show = showingErrors(async (/** @type {string} */ name) => {
        chosen = name;
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
        saved: () => void list.load(),
        pictureChanged: () => void list.load({ keep: true }),
    };
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
    setChildren(details, card(null, note(t("Choose a file to see what is in it."))));
    list.load();
    on("library", () => list.load({ keep: true }));
    parts = {
        duplicates,
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
    open: (/** @type {string | undefined} */ name) => name && parts.find(name),
});
