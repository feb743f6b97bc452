// What a file tool did, in numbers.
import { h } from "../core/elements.mjs";
import { formatPercent } from "../core/format.mjs";
import { t } from "../core/strings.mjs";
import { facts, note, summary, table } from "../controls/basic.mjs";
import { pageWords } from "../core/server_sentences.mjs";

/** @typedef {import("../api_types").ReportData} ToolReport */
/** @typedef {import("../api_types").ReportRow} LayerChange */

/**
 * Neighbouring layers with the same change as one row.
 * @param {LayerChange[]} layers
 * @returns {{ layer: LayerChange, more: number }[]} more: how many follow the first one
 */
export function groupLayers(layers) {
    const key = (/** @type {LayerChange} */ { old_rank, new_rank, kept, note: said }) =>
        [old_rank, new_rank, kept, said].join();
    /** @type {{ layer: LayerChange, more: number }[]} */
    const groups = [];
    for (const layer of layers) {
        const last = groups[groups.length - 1];
        if (last && key(last.layer) === key(layer)) last.more += 1;
        else groups.push({ layer, more: 0 });
    }
    return groups;
}

/** What is said of a layer, in the page's words. @param {string} said */
function layerNote(said) {
    if (said === "changes nothing") return t("changes nothing"); // elsewhere it is a part of sentences only
    if (said === "full matrix") return t("full matrix");
    const [, kind, what] = /^(was|weight) (.+)$/.exec(said) || [];
    if (!kind) return pageWords(said);
    return kind === "was" ? t("was {0}", what) : t("weight {0}", what);
}

/** @param {ToolReport} report */
function layerTable({ layers }) {
    const rank = (/** @type {number | null} */ value) => (value === null ? t("full") : value);
    const rows = groupLayers(layers).map(({ layer, more }) => [
        layer.layer + (more ? ` ${t("and {0} more", more)}` : "") + (layer.note ? ` (${layerNote(layer.note)})` : ""),
        rank(layer.old_rank),
        rank(layer.new_rank),
        formatPercent(layer.kept),
    ]);
    return h("details", {}, summary(t("Layer by layer")), table([t("layer"), t("rank"), t("new"), t("kept")], rows));
}

/** @param {ToolReport} report */
export function toolReport(report) {
    const { totals, largest_loss: loss } = report;
    const counted = (
        /** @type {Record<string, string[]>} */ found,
        /** @type {(count: number, name: string) => string} */ say,
    ) => Object.entries(found).map(([name, items]) => say(items.length, name));
    const lines = [
        ...counted(report.only_in, (count, name) => t("{0} layers only in {1}", count, name)),
        ...counted(report.not_understood, (count, name) => t("{0} keys of {1} were not understood", count, name)),
        ...counted(report.left_out, (count, name) => t("{0} layers of {1} were left out", count, name)),
        report.unchanged.length ? t("{0} layers stayed as they were", report.unchanged.length) : "",
        ...report.notes.map(pageWords),
    ].filter(Boolean);
    const ranks = totals.rank_before || totals.rank_after ? `${totals.rank_before} → ${totals.rank_after}` : "";
    return h(
        "div",
        { class: "lx-report" },
        facts([
            [t("layers"), totals.layers],
            [t("sum of ranks"), ranks],
            [t("norm kept"), formatPercent(totals.kept)],
            [t("kept after rounding"), formatPercent(totals.survived)],
            [t("largest loss"), loss ? `${loss.layer} (${formatPercent(loss.kept)})` : ""],
        ]),
        lines.map((line) => note(line)),
        report.layers.length ? layerTable(report) : null,
    );
}
