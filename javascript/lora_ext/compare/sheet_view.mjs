// A comparison sheet as a table of pictures; a click on one shows it with its tag.
import { apiUrl } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { note, outsideLink, buttonRow, segments, stack } from "../controls/basic.mjs";
import { rangeField } from "../controls/range_field.mjs";
import { cellDetails, sameText, scoreBar } from "./cell_details.mjs";
import { saidNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").SheetDetails} Sheet */
/** @typedef {import("../api_types").SheetCell} SheetCell */

/** What a row's label and the gaps take of a sheet's width, in pixels. */
const BESIDE = 90,
    GAP = 5;
/** Sizes of pictures that are set by themselves. */
const LEAST = 64,
    LARGEST = 116,
    STEP = 4;

/**
 * How large the pictures are shown; remembered. Until it is chosen, so that all columns are seen where that leaves
 * pictures of some size.
 * @param {HTMLElement} table
 * @param {number} columns
 */
function zoomField(table, columns) {
    const show = (/** @type {number} */ size) => table.style.setProperty("--cell", `${size}px`);
    const zoom = rangeField(t("Zoom"), {
        min: 48,
        max: 768,
        step: STEP,
        value: loadStored("zoom", LARGEST),
        tip: t("How large the pictures are shown"),
        oninput: (size) => {
            show(size);
            store("zoom", size);
        },
    });
    show(zoom.get());
    if (loadStored("zoom", 0)) return zoom;
    const watch = new ResizeObserver(() => {
        if (!table.clientWidth) return;
        watch.disconnect();
        const fitting = Math.floor((table.clientWidth - BESIDE) / columns - GAP);
        zoom.set(Math.max(LEAST, Math.min(LARGEST, fitting - (fitting % STEP))));
        show(zoom.get());
    });
    watch.observe(table);
    return zoom;
}

/** What stands below the table: notes, and links to the pages and the scores. @param {Sheet} sheet */
function sheetNotes(sheet) {
    const pages = sheet.pages.map((name) =>
        outsideLink(
            apiUrl("/pictures", { name }),
            { class: "lx-button", title: t("The labelled sheet as a picture") },
            name.split("/").pop(),
        ),
    );
    const scores = h(
        "a",
        {
            class: "lx-button",
            href: apiUrl(`/compare/${encodeURIComponent(sheet.folder)}/scores.csv`),
            title: t("All scores as a table"),
            download: true,
        },
        "scores.csv",
    );
    return [
        (sheet.notes || []).map((line) => saidNote(line, "bad")),
        sheet.suggested && !sheet.suggested.cells.length ? saidNote(sheet.suggested.reason) : null,
        sheet.same ? saidNote(sheet.same) : null,
        sheet.warning ? saidNote(sheet.warning, "bad") : null,
        buttonRow(pages, sheet.table ? scores : null),
        sheet.measured ? note(t("Likeness is measured by: {0}", sheet.measured)) : null,
    ];
}

/** @param {string[]} columns @param {HTMLElement[]} rows */
const tableOf = (columns, rows) =>
    h(
        "div",
        { class: "lx-scroll lx-sheet", tabindex: 0, role: "region", "aria-label": t("Sheet") },
        h(
            "table",
            {},
            h(
                "thead",
                {},
                h(
                    "tr",
                    {},
                    h("td", {}),
                    columns.map((label) => h("th", { scope: "col" }, label || "")),
                ),
            ),
            h("tbody", {}, rows),
        ),
    );

/**
 * Adds what has come to a cell: its picture, its score, whether it is suggested.
 * @param {HTMLElement} td
 * @param {SheetCell | undefined} cell
 * @param {boolean} suggested
 * @param {string} label where it has no tag
 * @param {() => void} onclick
 */
function fillCell(td, cell, suggested, label, onclick) {
    if (!cell || !cell.file) return;
    const same = sameText(cell);
    if (!td.querySelector("button")) {
        const src = apiUrl("/pictures", { name: cell.file });
        setChildren(
            td,
            h("button", { type: "button", onclick }, h("img", { loading: "lazy", src, alt: cell.tag || label })),
        );
    }
    if (cell.score && !td.querySelector(".lx-score")) {
        td.append(scoreBar(cell.score), same ? h("span", { class: "lx-same", title: same }, "=") : "");
    }
    td.classList.toggle("chosen", suggested);
    const title = [cell.tag, suggested ? t("suggested") : "", same].filter(Boolean).join(" · ");
    /** @type {HTMLElement} */ (td.firstElementChild).title = title;
}

/**
 * The table, a page of the z axis at a time.
 * @param {Sheet} sheet
 * @param {(td: HTMLElement, index: number) => void} fill index: of the cell
 */
function sheetTable(sheet, fill) {
    const [xs, ys] = [sheet.axes.x.labels, sheet.axes.y.labels];
    const indices = new Map(sheet.cells.map(({ x, y, z }, index) => [`${x} ${y} ${z}`, index]));
    /** @type {Map<number, HTMLElement>} */
    const cells = new Map();
    const element = stack();
    const showPage = (/** @type {number} */ z) => {
        cells.clear();
        setChildren(
            element,
            tableOf(
                xs,
                ys.map((label, y) =>
                    h(
                        "tr",
                        {},
                        h("th", { scope: "row" }, label || ""),
                        xs.map((_, x) => {
                            const td = h("td", {}, h("span", { class: "lx-blank" }));
                            const index = indices.get(`${x} ${y} ${z}`);
                            if (index === undefined) return td;
                            cells.set(index, td);
                            fill(td, index);
                            return td;
                        }),
                    ),
                ),
            ),
        );
    };
    return { element, cells, showPage };
}

/**
 * The details of the opened cell below the table. They are made anew only when what they show has changed.
 * @param {HTMLElement} place
 * @param {number} index of the cell
 * @param {SheetCell} cell
 * @param {string} reason why it is suggested, else ""
 */
function showDetails(place, index, cell, reason) {
    const key = `${index} ${Boolean(cell.score)} ${Boolean(reason)}`;
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    setChildren(place, cellDetails(cell, reason));
}

/**
 * The buttons of the z axis' pages, where there are several.
 * @param {Sheet["axes"]["z"]} z
 * @param {(page: number) => void} showPage
 */
function pageButtons(z, showPage) {
    if (z.labels.length < 2) return null;
    const pages = z.labels.map((label, i) => /** @type {[string, string]} */ ([String(i), label]));
    return segments(pages, "0", (to) => showPage(Number(to)), z.title);
}

/**
 * @param {Sheet} sheet
 * @returns an element; fill(sheet) adds what has come since, and leaves what was opened: a picture, a page, where the
 * table is scrolled to
 */
export function sheetView(sheet) {
    const {
        x: { labels: xs },
        y: { labels: ys },
        z,
    } = sheet.axes;
    const about = stack(),
        tail = stack();
    let opened = -1,
        now = sheet;
    let suggested = /** @type {Set<number>} */ (new Set());
    const show = (/** @type {number} */ index) => {
        for (const [one, td] of table.cells) td.classList.toggle("opened", one === index);
        const reason = suggested.has(index) && now.suggested ? now.suggested.reason : "";
        showDetails(about, index, now.cells[index], reason);
    };
    const fillOne = (/** @type {HTMLElement} */ td, /** @type {number} */ index) => {
        const cell = now.cells[index];
        td.classList.toggle("opened", index === opened);
        fillCell(td, cell, suggested.has(index), ys[cell.y] || xs[cell.x], () => show((opened = index)));
    };
    const table = sheetTable(sheet, fillOne);
    const fill = (/** @type {Sheet} */ newer) => {
        now = newer;
        suggested = new Set(newer.suggested ? newer.suggested.cells : []);
        for (const [index, td] of table.cells) fillOne(td, index);
        const wanted = opened >= 0 ? opened : [...suggested][0];
        if (wanted !== undefined && newer.cells[wanted] && newer.cells[wanted].file) show(wanted);
        setChildren(tail, sheetNotes(newer));
    };
    table.showPage(0);
    fill(sheet);
    return Object.assign(
        stack(pageButtons(z, table.showPage), zoomField(table.element, xs.length), table.element, about, tail),
        { folder: sheet.folder, fill },
    );
}
