// What a comparison sheet is drawn from: a file, axes, a prompt and settings.
import { h } from "../core/elements.mjs";
import { page } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { field, grid, select, summary } from "../controls/basic.mjs";
import {
    cfgField,
    checkpointSelect,
    seedField,
    showNativeSize,
    sizeFields,
    stepsField,
    usualCfg,
    usualSteps,
} from "../controls/sampling_fields.mjs";
import { LoraPicker } from "../library/lora_picker.mjs";
import { UsualPrompt } from "../library/usual_prompt.mjs";
import { axisField } from "./axis_field.mjs";

/** @typedef {import("../api_types").AxisExample} AxisKind */
/** @typedef {Record<string, any>} Stored */

const USUAL_AXES = { x: "weight:0.2-1.0(+0.2)", y: "seed:1,2", z: "" };

/** Axes that are often wanted. @returns {[string, Record<string, string>][]} */
const suggestions = () => [
    [t("weight × seed"), { x: "weight:0.2-1.0(+0.2)", y: "seed:1,2" }],
    [t("block presets"), { x: "preset:ALL,INALL,MIDD,OUTALL", y: "seed:1,2" }],
    [t("epochs × weight"), { x: "epoch:all", y: "weight:0.6,0.8,1" }],
    [t("DyLoRA ranks"), { x: "rank:all", y: "seed:1,2" }],
];

/** @param {AxisKind[]} kinds @param {Record<string, string> | undefined} stored */
function axisFields(kinds, stored) {
    const usual = { ...USUAL_AXES, ...stored };
    const axes = {
        x: axisField(kinds, usual.x, t("Columns"), t("What changes from column to column")),
        y: axisField(kinds, usual.y, t("Rows"), t("What changes from row to row")),
        z: axisField(kinds, usual.z, t("Pages"), t("What changes from page to page")),
    };
    const set = (/** @type {Record<string, string>} */ { x, y, z }) => {
        axes.x.set(x);
        axes.y.set(y);
        axes.z.set(z);
    };
    const chips = suggestions().map(([text, wanted]) =>
        h(
            "button",
            { type: "button", class: "lx-chip", title: t("Fill in columns and rows"), onclick: () => set(wanted) },
            text,
        ),
    );
    return {
        elements: [h("div", { class: "lx-chips" }, chips), Object.values(axes)],
        get: () => ({ x: axes.x.get(), y: axes.y.get(), z: axes.z.get() }),
        set,
    };
}

/** How the pictures are generated. @param {Stored} stored */
function samplingFields(stored) {
    const { samplers, draws } = page.choices;
    const checkpoint = checkpointSelect(stored.checkpoint);
    const sizes = sizeFields(stored, checkpoint);
    const numbers = {
        steps: stepsField(stored, usualSteps()),
        cfg: cfgField(stored, usualCfg()),
        seed: seedField(stored, 4294967295),
        ...sizes,
    };
    const usual = samplers.includes("DPM++ 2M") ? "DPM++ 2M" : samplers[0];
    const sampler = select(samplers, stored.sampler || usual);
    const element = h(
        "details",
        // the web UI may have another model by then
        { ontoggle: () => showNativeSize(Object.values(sizes), checkpoint.value) },
        summary(t("Settings")),
        grid(
            draws ? field(t("Model"), checkpoint, t("The model that generates the pictures")) : null,
            field(t("Sampler"), sampler, t("Sampling method")),
            Object.values(numbers),
        ),
    );
    const get = () => ({
        checkpoint: checkpoint.value || "",
        sampler: sampler.value || "DPM++ 2M",
        ...Object.fromEntries(Object.entries(numbers).map(([name, number]) => [name, number.get()])),
    });
    const set = (/** @type {Stored} */ asked) => {
        choose(checkpoint, asked.checkpoint);
        choose(sampler, asked.sampler);
        for (const [name, number] of Object.entries(numbers)) if (name in asked) number.set(asked[name]);
    };
    return { element, get, set };
}

/** Chooses an option where it is offered. @param {HTMLSelectElement} element @param {string | undefined} value */
function choose(element, value) {
    if ([...element.options].some((option) => option.value === value)) element.value = String(value);
}

/**
 * @param {AxisKind[]} kinds
 * @param {string[]} datasets
 * @param {Stored} stored
 */
export function sheetForm(kinds, datasets, stored) {
    const axes = axisFields(kinds, stored.axes);
    const sampling = samplingFields(stored);
    const prompt = new UsualPrompt(stored.prompt);
    const picker = new LoraPicker({
        label: t("LoRA"),
        tip: t("The file that columns, rows and pages vary"),
        onpick: (row) => prompt.follow(row),
    });
    const dataset = select([["", t("no scores by likeness")], ...datasets], stored.dataset || "");
    return {
        picker,
        elements: [
            picker.element,
            axes.elements,
            field(t("Prompt"), prompt.element, t("What is drawn; the LoRA's tag is added where it is missing")),
            field(t("Training pictures"), dataset, t("Each picture is scored by its likeness to these")),
        ],
        settings: sampling.element,
        checkpoint: () => sampling.get().checkpoint,
        ownPrompt: () => prompt.own,
        get: () => ({
            prompt: prompt.text,
            lora: picker.value ? picker.value.name : "",
            dataset: dataset.value,
            ...axes.get(),
            ...sampling.get(),
        }),
        /** Shows what a sheet was asked for; empty for one of the command line. @param {Stored} asked */
        take(asked) {
            if (!("prompt" in asked)) return;
            prompt.take(asked.prompt);
            choose(dataset, asked.dataset || "");
            axes.set({ x: asked.x || "", y: asked.y || "", z: asked.z || "" });
            sampling.set(asked);
            if (asked.lora) picker.choose(asked.lora);
        },
    };
}
