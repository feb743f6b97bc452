// The check before a run: pictures, steps, time and memory.
import { h } from "../core/elements.mjs";
import { formatBytes, formatRoughDuration } from "../core/format.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, facts, note, summary, table } from "../controls/basic.mjs";
import { saidNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").PreflightDetails} PreflightReport */

/**
 * Between which times a run is expected to end; its own steps tell more.
 * @param {NonNullable<PreflightReport["expected"]>} cost
 */
const expectedTime = ({ least_seconds: low, most_seconds: high }) =>
    low && high ? t("{0} to {1}", formatRoughDuration(low), formatRoughDuration(high)) : "";

/** What is counted. @param {PreflightReport} report */
const unitName = ({ unit }) => ({ pictures: t("pictures"), pairs: t("pairs"), prompts: t("prompts") })[unit];

/** @param {PreflightReport} report */
function folderTable(report) {
    const { concepts, unit } = report;
    if (unit === "prompts") return null;
    const name = (/** @type {PreflightReport["concepts"][number]} */ { folder, regularisation }) =>
        folder.split(/[\\/]/).pop() + (regularisation ? ` (${t("regularisation")})` : "");
    return table(
        [t("folder"), unitName(report), t("repeats"), t("samples per epoch")],
        concepts.map((one) => [name(one), one.pictures, one.repeats, one.turns]),
    );
}

/** @param {PreflightReport} report */
function bucketTable(report) {
    const rows = report.buckets.map(({ size, pictures, batches }) => [size.join("×"), pictures, batches]);
    return h("details", {}, summary(t("Sizes")), table([t("size"), unitName(report), t("batches")], rows));
}

/**
 * @param {{ report: PreflightReport } | null} result
 * @param {(sentence: string) => import("../core/elements.mjs").Child} links to the settings that a sentence names
 * @param {() => void} showPictures shows the pictures and their captions
 */
export function preflightReport(result, links, showPictures) {
    if (!result) return null;
    const { report } = result;
    const { expected, limit, without_caption: bare } = report;
    return h(
        "div",
        { class: "lx-report" },
        facts([
            [unitName(report), report.concepts.reduce((sum, one) => sum + one.pictures, 0)],
            [t("steps"), report.steps],
            [t("epochs"), report.epochs],
            [t("steps per epoch"), report.steps_per_epoch],
            [t("time, about"), expected ? expectedTime(expected) : ""],
            [t("memory, about"), expected && expected.bytes ? formatBytes(expected.bytes) : ""],
        ]),
        report.notes.map((line) => [saidNote(line), links(line)]),
        report.skipped.map((line) => saidNote(line, "bad")),
        report.too_long.map(([name, tokens]) =>
            note(t("{0}: the caption is {1} tokens long, only {2} are used", name, tokens, limit)),
        ),
        bare.length ? note(t("{0} pictures have no caption", bare.length)) : null,
        report.duplicates.map((group) => note(t("the same picture: {0}", group.join(", ")))),
        report.skipped.length || report.too_long.length || bare.length || report.duplicates.length
            ? buttonRow(button(t("Show the pictures"), showPictures, { tip: t("The pictures and their captions") }))
            : null,
        folderTable(report),
        bucketTable(report),
    );
}
