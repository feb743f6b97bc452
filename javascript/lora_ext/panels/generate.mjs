// The Generate panel of the standalone program: a prompt and its pictures.
import { apiUrl } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { buildPanel, registerPanel, showPanel } from "../core/panels.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import {
    button,
    card,
    checkbox,
    field,
    grid,
    outsideLink,
    buttonRow,
    select,
    summary,
    textArea,
} from "../controls/basic.mjs";
import { numberField } from "../controls/number_field.mjs";
import { batchField, cfgField, checkpointSelect, sizeFields, stepsField } from "../controls/sampling_fields.mjs";
import { registerJobOpener } from "../jobs/job_openers.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { LastPictures } from "../compare/last_pictures.mjs";
import { LoraPicker } from "../library/lora_picker.mjs";
import { insertTag, registerPrompt } from "../prompts/prompt_fields.mjs";
import { actedChart } from "../weights/acted_weights.mjs";
import { saidNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").GenerateResult} Pictures */
/** @typedef {ReturnType<typeof numberField>} NumberField */
/** @typedef {ReturnType<typeof sizeFields>} Sizes */

/** @typedef {{ prompt: HTMLTextAreaElement, negative: HTMLTextAreaElement, seed: NumberField, sizes: Sizes }} Fields */
/** @type {Fields & { view: JobView }} */
let parts;

/** @param {Pictures | null} result */
function pictures(result) {
    if (!result) return null;
    const figures = result.pictures.map(({ name, infotext }) => {
        const address = apiUrl("/pictures", { name });
        const image = h("img", { src: address, alt: t("the picture") });
        const log = infotext ? h("pre", { class: "lx-log" }, infotext) : null;
        return h(
            "figure",
            {},
            outsideLink(address, { title: t("Open the picture alone") }, image),
            log ? h("details", {}, summary(t("Generation parameters")), log) : null,
        );
    });
    return h(
        "div",
        { class: "lx-pictures" },
        figures,
        (result.notes || []).map((line) => [saidNote(line), actedChart(line)]),
    );
}

/** @param {boolean} value */
const curveBox = (value) =>
    checkbox(
        t("Show the weight at each step"),
        value,
        null,
        t("A note and a chart say which weight each file with a curve or a range of steps had at each step"),
    );

/** The fields below the prompts, and their values as the API has them. @param {Record<string, any>} stored */
function settingsFields(stored) {
    /** @param {"samplers" | "schedulers"} name */
    const choose = (name) => select(page.choices[name], stored[name] ?? page.choices[name][0]);
    const checkpoint = checkpointSelect(stored.checkpoints);
    const sampler = choose("samplers"),
        scheduler = choose("schedulers");
    const sizes = sizeFields(stored, checkpoint);
    const numbers = {
        steps: stepsField(stored, 20),
        cfg: cfgField(stored, 2.5),
        ...sizes,
        batch: batchField(stored, 8),
    };
    const seed = numberField(t("Seed"), stored.seed ?? 7, {
        low: -1,
        high: 4294967295,
        whole: true,
        usual: -1,
        tip: t("Same seed, same picture; -1 for a random seed"),
    });
    const curve = curveBox(stored.show_curve ?? false);
    const elements = [
        field(t("Model"), checkpoint, t("The model that generates the pictures")),
        grid(
            field(t("Sampler"), sampler, t("Sampling method")),
            field(t("Schedule"), scheduler, t("Noise schedule")),
            Object.values(numbers),
            seed,
        ),
        curve,
    ];
    const get = () => ({
        checkpoint: checkpoint.value,
        sampler: sampler.value,
        scheduler: scheduler.value,
        seed: seed.get(),
        show_curve: curve.box.checked,
        ...Object.fromEntries(Object.entries(numbers).map(([name, number]) => [name, number.get()])),
    });
    return { elements, seed, sizes, get };
}

/** The picker, with a button that writes the chosen file's tag and words into the prompt. */
function loraField() {
    const picker = new LoraPicker({});
    const insert = showingErrors(async () => {
        if (!picker.value) return toast(t("Choose a file"), "bad");
        return toast(await insertTag(generatePrompt, picker.value.name));
    });
    const tip = t("Writes its tag and trigger words into the prompt");
    return [picker.element, buttonRow(button(t("Insert into prompt"), insert, { tip }))];
}

/**
 * Keeps what was asked for, for the next time.
 * @param {{ sampler: string, scheduler: string, checkpoint: string }} request
 */
const storeRequest = (request) =>
    store("generate", {
        ...request,
        samplers: request.sampler,
        schedulers: request.scheduler,
        checkpoints: request.checkpoint,
    });

/** The job that draws, and the pictures of before. */
function drawnPictures() {
    const last = new LastPictures();
    const result = (/** @type {Pictures | null} */ made) => {
        if (made) last.add(made.pictures);
        return pictures(made);
    };
    return { last, view: new JobView({ kinds: ["generate"], empty: t("Pictures appear here."), result }) };
}

/** @param {HTMLElement} panel */
function build(panel) {
    const stored = loadStored("generate", /** @type {Record<string, any>} */ ({}));
    const prompt = textArea(3, stored.prompt ?? "a red circle on a blue background", {
        placeholder: t("What to draw; <lora:name:0.8> applies a file"),
    });
    const negative = textArea(2, stored.negative_prompt || "");
    const settings = settingsFields(stored);
    const { view, last } = drawnPictures();
    const generate = showingErrors(() => {
        const request = { prompt: prompt.value, negative_prompt: negative.value, ...settings.get() };
        storeRequest(request);
        return view.run("/generate", request);
    });
    prompt.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
    });
    const tip = t("Ctrl+Enter draws");
    setChildren(
        panel,
        h(
            "div",
            { class: "lx-split even" },
            h(
                "div",
                { class: "lx-side" },
                card(
                    null,
                    field(t("Prompt"), prompt, tip),
                    field(t("Negative prompt"), negative, t("What the picture should not show")),
                    buttonRow(button(t("Draw"), generate, { kind: "main", tip })),
                ),
                card(t("LoRA"), loraField()),
                card(t("Settings"), settings.elements),
            ),
            h("div", { class: "lx-main" }, card(t("Pictures"), view.element), last.element),
        ),
    );
    view.resume();
    parts = { prompt, negative, seed: settings.seed, sizes: settings.sizes, view };
}

/** The panel's parts, built where it was not shown yet. */
function built() {
    buildPanel("generate");
    return parts;
}

/** The panel's prompt. */
const generatePrompt = {
    label: () => t("Insert into prompt"),
    takeLabel: () => t("From the prompt"),
    place: () => t("Generate"),
    show() {
        showPanel("generate");
        parts.prompt.focus();
    },
    exists: () => page.choices.draws,
    get: () => built().prompt.value,
    set: (/** @type {string} */ text) => void (built().prompt.value = text),
    getNegative: () => built().negative.value,
    setNegative: (/** @type {string} */ text) => void (built().negative.value = text),
    setSeed: (/** @type {number} */ seed) => built().seed.set(seed),
    getSize() {
        const { width, height } = built().sizes;
        return { width: Number(width.box.value), height: Number(height.box.value) };
    },
    setSize(/** @type {{ width: number, height: number }} */ size) {
        const { width, height } = built().sizes;
        width.set(size.width);
        height.set(size.height);
    },
};
registerPrompt(generatePrompt);
registerJobOpener(["generate"], (job) => {
    showPanel("generate");
    parts.view.attach(job.id);
});
registerPanel({
    name: "generate",
    title: () => t("Generate"),
    tip: () => t("Draw pictures from a prompt"),
    order: 10,
    available: () => page.choices.draws,
    build,
});
