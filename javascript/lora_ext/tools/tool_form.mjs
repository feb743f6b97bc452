// What the forms of all file tools share: the result's name, its precision, the button, the job and its report.
import { emit } from "../core/events.mjs";
import { showingErrors } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { setChildren } from "../core/elements.mjs";
import { button, card, checkbox, field, grid, note, buttonRow, select, stack, textInput } from "../controls/basic.mjs";
import { numberField } from "../controls/number_field.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { newFiles } from "../library/new_files.mjs";
import { toolReport } from "./tool_report.mjs";

/** @typedef {import("../core/elements.mjs").Child} Child */
/** @typedef {import("../api_types").ToolResult} ToolResult */
/** @typedef {import("../api_types").CheckpointResult} CheckpointResult */

/** @param {ToolResult | CheckpointResult | null} result */
function toolResult(result) {
    if (!result) return null;
    const { files, report } = result;
    const written = "checkpoint" in result ? result.checkpoint : files.join(", ");
    return stack(note(t("Written: {0}", written), "good"), files.length ? newFiles(files) : null, toolReport(report));
}

/**
 * @param {object} tool
 * @param {string} tool.verb the route, and the kind of its jobs
 * @param {string} tool.label of the button
 * @param {string} tool.tip
 * @param {() => object | void} tool.request the tool's own fields; nothing where it cannot start
 */
export function toolForm({ verb, label, tip, request }) {
    let overwrite = false,
        named = false;
    const name = textInput("", () => (named = Boolean(name.value)), { placeholder: t("name of the new file") });
    const precision = select([["", t("as the input")], "fp16", "bf16", ["float", "float32"]], "");
    const view = new JobView({
        kinds: [verb],
        empty: t("What was done to each layer, and the new file, appear here."),
        result: toolResult,
    });
    const start = showingErrors(async () => {
        const own = request();
        if (!own) return;
        const body = { ...own, save_to: name.value.trim(), precision: precision.value, overwrite };
        const job = await view.run(`/${verb}`, body);
        if (job && job.state === "done") emit("library");
    });
    const replace = checkbox(
        t("replace a file of this name"),
        false,
        (on) => (overwrite = on),
        t("Otherwise an existing file is never overwritten"),
    );
    const elements = [
        grid(
            field(t("Save as"), name, t("The result's name, with a folder before it if you like")),
            field(t("Precision"), precision, t("How the weights are stored: fp16 is small, float32 is exact")),
        ),
        buttonRow(button(label, start, { kind: "main", tip }), replace),
    ];
    view.resume();
    /** Names the result, unless the user has named it. @param {string} text */
    const suggestName = (text) => {
        if (!named) name.value = text;
    };
    /**
     * Shows the form with a tool's own elements.
     * @param {HTMLElement} place
     * @param {string} title
     * @param {...Child} own
     */
    const show = (place, title, ...own) =>
        setChildren(place, card(title, own, elements), card(t("Result"), view.element));
    return { show, suggestName, view };
}

/**
 * A rank that may be left out.
 * @param {string} label
 * @param {string} tip
 * @param {{ placeholder?: string, high?: number, oninput?: () => void }} [options]
 */
export const optionalRank = (label, tip, { placeholder = t("as the rank"), high = 4096, oninput } = {}) =>
    numberField(label, "", {
        low: 1,
        high,
        whole: true,
        optional: true,
        placeholder,
        tip,
        ...(oninput ? { oninput } : {}),
    });
