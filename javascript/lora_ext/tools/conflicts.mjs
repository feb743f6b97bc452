// Conflicts: how much the changes of files that are used together have in common, and how to split their blocks.
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, card, grid, note, segments, stack } from "../controls/basic.mjs";
import { rangeField } from "../controls/range_field.mjs";
import { strengthField } from "../controls/strength_field.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { LoraPicker } from "../library/lora_picker.mjs";
import { conflictReport } from "./conflict_report.mjs";

const FEWEST = 2;

/** The files with their weights. */
function fileRows() {
    const element = h("div", { class: "lx-merge" });
    /** @type {{ picker: LoraPicker, weight: ReturnType<typeof rangeField> }[]} */
    const rows = [];
    const add = () => {
        const picker = new LoraPicker({});
        const weight = strengthField(t("Weight"), t("The weight of the file's tag"), { min: -1 });
        const tip = t("Remove this file from the comparison");
        const remove = button("×", () => removeRow(), { kind: "quiet", tip, "aria-label": tip });
        const line = h("div", { class: "lx-merge-row lx-two-fields" }, picker.element, weight, remove);
        const row = { picker, weight };
        const removeRow = () => {
            if (rows.length <= FEWEST) return toast(t("Two files at least are compared"), "bad");
            rows.splice(rows.indexOf(row), 1);
            line.remove();
        };
        rows.push(row);
        element.append(line);
    };
    const get = () =>
        rows.flatMap(({ picker, weight }) => (picker.value ? [{ name: picker.value.name, weight: weight.get() }] : []));
    for (let i = 0; i < FEWEST; i++) add();
    return { element, add, get };
}

/** How the blocks are split. */
function splitFields() {
    let everyBlock = false;
    const threshold = rangeField(t("Conflict from"), {
        min: 0,
        max: 1,
        step: 0.01,
        value: 0.1,
        usual: 0.1,
        tip: t("Interference from which a block counts as a conflict: 0 unrelated files, 1 the same directions"),
    });
    const ways = segments(
        [
            ["conflicts", t("where they conflict"), t("Only blocks with a conflict are given to one file")],
            ["all", t("every block"), t("Each block is given to one file")],
        ],
        "conflicts",
        (way) => {
            everyBlock = way === "all";
            threshold.hidden = everyBlock;
        },
        t("Split of the blocks"),
    );
    const label = h("span", { class: "lx-label" }, t("Split of the blocks"));
    return {
        element: stack(h("div", { class: "lx-field" }, label, ways), grid(threshold)),
        get: () => ({ threshold: threshold.get(), every_block: everyBlock }),
    };
}

/** @param {HTMLElement} place */
export function buildConflicts(place) {
    const files = fileRows(),
        split = splitFields();
    const view = new JobView({
        kinds: ["conflicts"],
        empty: t("How much the files have in common appears here."),
        result: conflictReport,
    });
    const compare = showingErrors(async () => {
        const parts = files.get();
        if (parts.length < FEWEST) return toast(t("Choose at least two files"), "bad");
        return view.run("/conflicts", { parts, ...split.get() });
    });
    const start = button(t("Compare the files"), compare, {
        kind: "main",
        tip: t("Takes seconds; no file is written"),
    });
    const add = button(t("Add a file"), () => files.add(), { tip: t("One more file to compare") });
    const about = t(
        "For files that are used together: how much of their changes lies in the same directions, block by block, " +
            "and whether they add up or cancel each other. A block in which they conflict can be given to one of them.",
    );
    setChildren(
        place,
        card(t("Conflicts"), note(about), files.element, buttonRow(add), split.element, buttonRow(start)),
        card(t("Result"), view.element),
    );
    view.resume();
    return { view };
}
