// Merge: several files become one, or go into a checkpoint.
import { api } from "../core/api.mjs";
import { h } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { button, field, note, segments, select } from "../controls/basic.mjs";
import { rangeField } from "../controls/range_field.mjs";
import { strengthField } from "../controls/strength_field.mjs";
import { LoraPicker } from "../library/lora_picker.mjs";
import { optionalRank, toolForm } from "./tool_form.mjs";

/** @typedef {import("../api_types").PresetRow} Preset */

/** How the files are added up, and at which rank. */
function methodFields() {
    let method = "concat",
        intoModel = false;
    const rank = rangeField(t("Rank of the result"), {
        min: 1,
        max: 256,
        step: 1,
        value: 16,
        tip: t("Larger keeps more and makes a larger file"),
    });
    const conv = optionalRank(t("Rank of 3×3 layers"), t("Empty: as the rank"), { high: 1024 });
    const ranks = h("div", { class: "lx-grid", hidden: true }, rank, conv);
    const show = () => {
        ways.hidden = intoModel;
        ranks.hidden = intoModel || method !== "svd";
    };
    const ways = segments(
        [
            ["concat", t("exact"), t("Ranks side by side: the exact sum, a larger file")],
            ["svd", t("at a rank"), t("The best approximation of the sum at a rank")],
            ["factors", t("as older scripts"), t("Averages the factors, as older merge scripts do")],
        ],
        method,
        (to) => {
            method = to;
            show();
        },
        t("Merge method"),
    );
    return {
        elements: [ways, ranks],
        /** @param {boolean} into whether the files go into a checkpoint */
        setIntoModel(into) {
            intoModel = into;
            show();
        },
        get: () => ({ method, ...(ranks.hidden ? {} : { new_rank: rank.get(), new_conv_rank: conv.get() }) }),
    };
}

/**
 * A file with its ratio and its block weights.
 * @param {Preset[]} presets
 * @param {() => void} onpick called when another file is chosen
 * @param {() => void} onremove
 */
function fileRow(presets, onpick, onremove) {
    const picker = new LoraPicker({ onpick });
    const ratio = strengthField(t("Ratio"), t("Weight of this file in the merge; may be negative"), { min: -1 });
    const lbw = select([["", t("the same for all blocks")], ...presets.map(({ name }) => name)], "");
    const tip = t("Remove this file from the merge");
    const element = h(
        "div",
        { class: "lx-merge-row" },
        picker.element,
        ratio,
        field(t("Blocks"), lbw, t("A block-weight preset for this file")),
        button("×", onremove, { kind: "quiet", tip, "aria-label": tip }),
    );
    const get = () => ({ name: picker.value ? picker.value.name : "", ratio: ratio.get(), lbw: lbw.value });
    return { element, picker, get };
}

/** The files with their ratios. @param {() => void} onchange */
function fileRows(onchange) {
    const list = h("div", { class: "lx-merge" });
    /** @type {ReturnType<typeof fileRow>[]} */
    const rows = [];
    /** @param {Preset[]} presets */
    const add = (presets) => {
        const row = fileRow(presets, onchange, () => {
            row.element.remove();
            rows.splice(rows.indexOf(row), 1);
            onchange();
        });
        rows.push(row);
        list.append(row.element);
    };
    const chosen = () => rows.filter(({ picker }) => picker.value);
    return {
        list,
        add,
        get: () => chosen().map((row) => row.get()),
        titles: () => chosen().map(({ picker }) => (picker.value ? picker.value.title : "")),
    };
}

/** @param {HTMLElement} place */
export function buildMerge(place) {
    /** @type {Preset[]} */
    let presets = [];
    const files = fileRows(() => form.suggestName(files.titles().join("-")));
    const method = methodFields();
    const { checkpoints } = page.choices;
    const into = select([["", t("a new LoRA")], ...checkpoints.filter(Boolean)], "", (to) =>
        method.setIntoModel(Boolean(to)),
    );
    const form = toolForm({
        verb: "merge",
        label: t("Merge"),
        tip: t("Merge the files and write the result"),
        request: () => {
            const parts = files.get();
            if (!parts.length) return toast(t("Choose at least one file"), "bad");
            return { parts, checkpoint: into.value, ...method.get() };
        },
    });
    const add = button(t("Add a file"), () => files.add(presets), { tip: t("One more file to merge") });
    form.show(
        place,
        t("Merge"),
        note(t("Merges several files into one.")),
        files.list,
        h("div", { class: "lx-row" }, add),
        field(t("Into"), into, t("A new LoRA, or a checkpoint that the files are merged into")),
        method.elements,
    );
    showingErrors(async () => {
        ({ presets } = await api("/presets"));
        files.add(presets);
        files.add(presets);
    })();
    return { view: form.view };
}
