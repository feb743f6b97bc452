// Comparison sheets of before.
import { api } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { formatDate } from "../core/format.mjs";
import { showingErrors } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, note } from "../controls/basic.mjs";

/** @typedef {import("../api_types").SheetDetails} Sheet */
/** @typedef {{ folder: string, cells: number, time: number, complete: boolean }} PastSheet */

const MOST = 20;

/** @param {string} folder of a sheet @returns {Promise<Sheet>} */
export const loadSheet = (folder) => api(`/compare/${encodeURIComponent(folder)}`);

/**
 * The newest sheets; a click opens one.
 * @param {(sheet: Sheet) => void} open
 */
export function sheetHistory(open) {
    const element = h("div", { class: "lx-jobs-past" });
    const line = (/** @type {PastSheet} */ { folder, cells, time, complete }) => {
        const about = [complete ? "" : t("not finished"), t("{0} pictures", cells), formatDate(time)];
        return h(
            "button",
            {
                type: "button",
                class: "lx-item",
                title: t("Show this sheet"),
                onclick: showingErrors(async () => open(await loadSheet(folder))),
            },
            h("span", { class: "lx-pick-text" }, h("b", {}, folder), h("small", {}, about.filter(Boolean).join(" · "))),
        );
    };
    const refresh = showingErrors(async () => {
        const sheets = /** @type {PastSheet[]} */ ((await api("/compare/history")).sheets);
        setChildren(element, sheets.slice(0, MOST).map(line));
    });
    return { element, refresh };
}

/**
 * That a sheet is not finished, with a button that draws what is missing.
 * @param {() => void} resume
 */
export const unfinishedNote = (resume) =>
    h(
        "div",
        { class: "lx-row" },
        note(t("This sheet is not finished.")),
        button(t("Resume"), resume, { kind: "main", tip: t("Draws what is missing") }),
    );
