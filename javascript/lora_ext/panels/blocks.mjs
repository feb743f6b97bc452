// The Blocks panel: what each block of a LoRA does, along the U-Net's shape; one click makes a preset of it.
import { api } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { itemShown, registerPanel, showPanel } from "../core/panels.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { analysisWays, blockMap } from "../blocks/block_map.mjs";
import { button, card, columns, field, grid, note, segments, select, stack, summary } from "../controls/basic.mjs";
import { rangeField } from "../controls/range_field.mjs";
import {
    cfgField,
    checkpointSelect,
    seedField,
    stepsField,
    usualCfg,
    usualSteps,
} from "../controls/sampling_fields.mjs";
import { registerJobOpener } from "../jobs/job_openers.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { LoraPicker } from "../library/lora_picker.mjs";
import { UsualPrompt } from "../library/usual_prompt.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */
/** @typedef {Record<string, any>} Stored */

/** @type {{ picker: LoraPicker, view: JobView }} */
let parts;

/** The settings of the pictures by which blocks are measured. @param {Stored} stored */
function pictureFields(stored) {
    const prompt = new UsualPrompt(stored.prompt);
    const numbers = {
        seeds: rangeField(t("Pictures per block"), {
            min: 1,
            max: 8,
            step: 1,
            value: stored.seeds ?? 1,
            usual: 1,
            tip: t("More seeds: more reliable, slower"),
        }),
        seed: seedField(stored, 4294967000),
        steps: stepsField(stored, usualSteps()),
        cfg: cfgField(stored, usualCfg()),
    };
    const checkpoint = checkpointSelect(stored.checkpoint);
    const model = page.choices.draws ? field(t("Model"), checkpoint, t("The model that generates the pictures")) : null;
    const element = stack(
        field(t("Prompt"), prompt.element, t("What is drawn; the LoRA's tag is added where it is missing")),
        h("details", {}, summary(t("Settings")), grid(model, Object.values(numbers))),
    );
    const get = () => ({
        prompt: prompt.text,
        checkpoint: checkpoint.value || "",
        ...Object.fromEntries(Object.entries(numbers).map(([name, number]) => [name, number.get()])),
    });
    return { element, get, prompt };
}

/** How each block is measured, and the settings of the pictures for it. @param {Stored} stored */
function measureFields(stored) {
    let way = stored.way || "norms";
    const pictures = pictureFields(stored);
    const setWay = (/** @type {string} */ to) => {
        way = to;
        pictures.element.hidden = to === "norms";
    };
    const title = t("How it is measured");
    const ways = segments(analysisWays(), way, setWay, title);
    setWay(way);
    const label = h("span", { class: "lx-label" }, title);
    return {
        elements: [h("div", { class: "lx-field" }, label, ways), pictures.element],
        prompt: pictures.prompt,
        get: () => ({ way, ...pictures.get() }),
    };
}

/** The layouts of block weights that fit a file. */
function layoutSelect() {
    let size = 17;
    const element = select([[size, t("attention blocks")]], size, (to) => (size = Number(to)));
    const fit = (/** @type {{ layouts: [number, number], layout: number }} */ { layouts: [small, large], layout }) => {
        size = layout;
        /** @type {[number, string][]} */
        const rows = [
            [small, t("attention blocks")],
            [large, t("all blocks")],
        ];
        if (large === 26) rows.push([25, t("all blocks but the text encoder")]);
        setChildren(
            element,
            rows.map(([key, text]) => h("option", { value: key }, `${text} (${key})`)),
        );
        element.value = String(layout);
    };
    return { element, fit, get: () => size };
}

/**
 * What the API is asked for; remembered.
 * @param {string} lora
 * @param {number} layout
 * @param {ReturnType<typeof measureFields>} measuring
 */
function analysisRequest(lora, layout, measuring) {
    const settings = /** @type {Stored} */ ({ layout, ...measuring.get() });
    const { samplers } = page.choices;
    const sampler = samplers.includes("DPM++ 2M") ? {} : { sampler: samplers[0] };
    const request = { lora, ...sampler, ...settings };
    store("blocks", { ...request, prompt: measuring.prompt.own });
    const seeds = Array.from({ length: settings.seeds }, (_, i) => settings.seed + i).join(",");
    return { ...request, seeds };
}

/** @param {HTMLElement} panel */
function build(panel) {
    const measuring = measureFields(loadStored("blocks", /** @type {Stored} */ ({})));
    const layout = layoutSelect();
    const picker = new LoraPicker({
        label: t("LoRA"),
        onpick: showingErrors(async (/** @type {LibraryRow} */ row) => {
            itemShown("blocks");
            measuring.prompt.follow(row);
            const file = await api("/inspect", { query: { name: row.name } });
            if (picker.value === row) layout.fit(file); // else another file was chosen meanwhile
        }),
    });
    const out = stack(note(t("Choose a file and measure it.")));
    const view = new JobView({
        kinds: ["blocks"],
        result: (found) => {
            if (found) setChildren(out, blockMap(found));
            return null;
        },
    });
    const measure = showingErrors(async () => {
        if (!picker.value) return toast(t("Choose a file"), "bad");
        return view.run("/compare/blocks", analysisRequest(picker.value.name, layout.get(), measuring));
    });
    const start = button(t("Measure"), measure, {
        kind: "main",
        tip: t("Measures every block; the result becomes a preset in one click"),
    });
    const side = card(
        t("What each block does"),
        picker.element,
        field(t("Which blocks"), layout.element, t("Most files change only blocks with attention")),
        measuring.elements,
        h("div", { class: "lx-row" }, start),
    );
    setChildren(panel, columns("", [side], [card(t("Result"), view.element, out)]));
    parts = { picker, view };
    view.resume();
    picker.chooseFirst(measuring.get().checkpoint);
}

registerJobOpener(["blocks"], (job) => {
    showPanel("blocks");
    parts.view.attach(job.id);
});
registerPanel({
    name: "blocks",
    title: () => t("Blocks"),
    tip: () => t("What each block of a LoRA does, as a map"),
    order: 45,
    build,
    item: () => parts.picker.value?.name || "",
    open: (/** @type {string | undefined} */ name) => name && parts.picker.choose(name),
});
