// The Train panel: the form, the check before a run, the run at work, runs of before, the pictures.
import { api } from "../core/api.mjs";
import { debounce } from "../core/debounce.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { itemShown, registerPanel, showPanel } from "../core/panels.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { button, checkbox, field, note, buttonRow, segments, select, stack } from "../controls/basic.mjs";
import { registerJobOpener } from "../jobs/job_openers.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { LoraPicker } from "../library/lora_picker.mjs";
import { captionReport } from "../train/caption_editor.mjs";
import { datasetBrowser, sizesQuery } from "../train/dataset_browser.mjs";
import { fieldLinks } from "../train/field_links.mjs";
import { startingPoints } from "../train/form_words.mjs";
import { optionForm } from "../train/option_form.mjs";
import { preflightReport } from "../train/preflight_report.mjs";
import { settingsPresets } from "../train/settings_presets.mjs";
import { runActions, runStops } from "../train/run_controls.mjs";
import { finishedRun, pastRun, showProgress } from "../train/run_view.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */
/** @typedef {import("../api_types").TrainForm} TrainForm */
/** @typedef {import("../jobs/job_openers.mjs").JobName} JobName */
/** @typedef {Record<string, any>} Settings */
/** @typedef {ReturnType<typeof optionForm>} OptionForm */

/** A file and samples of each epoch, so that the best one can be chosen afterwards. */
const EVERY_EPOCH = { save_every_n_epochs: 1, sample_every_n_epochs: 1 };
/** What suits the small model, where the program has no other. */
const SMALL_MODEL = {
    resolution: "64",
    min_bucket_reso: 32,
    bucket_reso_steps: 8,
    network_dim: 8,
    network_alpha: 8,
    learning_rate: 0.001,
};
/** Options that stay when settings of another file are taken over. */
const KEPT = ["train_data_dir", "reg_data_dir", "output_name"];

/** @type {((job: JobName) => void) | undefined} */
let attach;
/** @type {JobName | undefined} a job that is shown when the panel has been built */
let pending;
/** @typedef {{ settings: Settings, prompts: string, compare: boolean }} RunRequest */
/** The page that is shown, or will be when the panel has been built. */
let shownPage = "form";
/** @type {((name: string) => void) | undefined} */
let openPage;
/** @type {((request: RunRequest) => void) | undefined} */
let loadRequest;
/** @type {RunRequest | undefined} settings that are shown when the panel has been built */
let pendingRequest;

/** The sample prompt where none is given: the trigger word, else the file's name. @param {Settings} settings */
function triggerPrompt({ metadata_trigger_phrase: trigger, output_name: name, ...settings }) {
    const sampled = settings.sample_every_n_epochs || settings.sample_every_n_steps || settings.sample_at_first;
    return sampled && (trigger || name) ? `${trigger || name} --d 1` : "";
}

/** The form with the sample prompts and what follows a run; remembers all of it. @param {TrainForm} form */
function trainingForm(form) {
    const prompts = h("textarea", {
        class: "lx-input lx-text",
        rows: 3,
        spellcheck: "false",
        placeholder: t("a red circle --n a square --s 20 --d 7"),
    });
    const remember = debounce(400, () =>
        store("train", { settings: options.rawSettings(), prompts: prompts.value, compare: compare.box.checked }),
    );
    const compare = checkbox(
        t("Compare the epochs when done"),
        false,
        remember,
        t("Draws a sheet when training ends: every saved file at increasing weights, on the sample " + "prompts"),
    );
    const options = optionForm(form, remember);
    prompts.addEventListener("input", remember);
    const load = (/** @type {Settings} */ settings, /** @type {string | undefined} */ text) => {
        options.load(settings);
        if (text !== undefined) prompts.value = text;
        remember();
    };
    const last = loadStored("train", /** @type {Settings | null} */ (null));
    compare.box.checked = Boolean(last && last.compare);
    if (last) load(last.settings, last.prompts);
    else {
        options.change(EVERY_EPOCH);
        if (form.datasets.length) options.change({ train_data_dir: form.datasets[0] });
        if (page.choices.draws) options.change(SMALL_MODEL);
    }
    return { options, prompts, compare, load, remember };
}

/** @param {OptionForm} options @param {() => void} onchange */
function startingPointSelect(options, onchange) {
    const points = startingPoints();
    const label = t("Choose a starting point");
    return select(
        [["", label], ...points.map(({ name, title }) => /** @type {[string, string]} */ ([name, title]))],
        "",
        (name) => {
            const point = points.find((one) => one.name === name);
            if (!point) return;
            options.change(point.values);
            toast(point.tip);
            onchange();
        },
        { title: t("Settings that suit a face, a style, an object, or a sweep of ranks"), "aria-label": label },
    );
}

/** What stays when other settings are taken over. @param {{ options: OptionForm }} form */
const keptSettings = ({ options }) => Object.fromEntries(KEPT.map((option) => [option, options.get(option)]));

/** @param {ReturnType<typeof trainingForm>} form */
const settingsPicker = ({ options, load }) =>
    new LoraPicker({
        label: t("Start again from a file"),
        tip: t("Loads the training settings that are stored in a LoRA file"),
        onpick: showingErrors(async (/** @type {LibraryRow} */ { name }) => {
            const { settings, told } = await api("/train/begin", { query: { name } });
            load({ ...keptSettings({ options }), ...settings }, undefined);
            toast([t("Its settings are in the form."), ...told].join(" "));
        }),
    });

/** The form's page: starting points, search, options, sample prompts. @param {ReturnType<typeof trainingForm>} form */
const formPage = (form) =>
    h(
        "div",
        { class: "lx-main" },
        h(
            "section",
            { class: "lx-card" },
            buttonRow(startingPointSelect(form.options, form.remember), form.options.extent, form.options.search),
            settingsPicker(form).element,
            settingsPresets(
                () => form.options.settings(),
                (settings) => form.load({ ...keptSettings(form), ...settings }, undefined),
            ),
            form.options.element,
            form.options.none,
            field(
                t("Sample prompts"),
                form.prompts,
                t(
                    "Generated during training; one per line, with --n negative, --w width, --h height, --d " +
                        "seed, --s steps, --l CFG scale",
                ),
            ),
        ),
    );

/** The panel's pages. @returns {[name: string, title: string, tip: string][]} */
const pageChoices = () => [
    ["form", t("Settings"), t("What is trained, and how")],
    ["data", t("Pictures"), t("The pictures and their captions")],
    ["history", t("History"), t("Earlier runs: settings, curves, files")],
];

/**
 * The three pages of the panel.
 * @param {TrainForm} known
 * @param {ReturnType<typeof trainingForm>} form
 * @param {() => void} start starts a run with the form's settings
 * @param {import("../train/dataset_browser.mjs").Describe} describe
 */
function pages(known, form, start, describe) {
    const { options } = form;
    const data = stack(),
        past = stack();
    const browse = datasetBrowser(data, describe);
    const load = (/** @type {Settings} */ settings, /** @type {string} */ prompts) => {
        form.load(settings, prompts);
        open("form");
    };
    const showHistory = showingErrors(async () => {
        const { runs } = await api("/train/history");
        setChildren(past, runs.length ? runs.map((run) => pastRun(run, load, start)) : note(t("No run yet.")));
    });
    const elements = { form: formPage(form), data, history: past };
    const show = (/** @type {string} */ to) => {
        for (const [name, element] of Object.entries(elements)) element.hidden = name !== to;
        if (to === "data") {
            browse(() => ({
                name: options.get("train_data_dir") || known.datasets[0] || "",
                sizes: sizesQuery(options),
            }));
        }
        if (to === "history") showHistory();
        shownPage = to;
        itemShown("train");
    };
    const tabs = segments(pageChoices(), "form", show, t("Train"));
    data.hidden = past.hidden = true;
    const open = (/** @type {string} */ name) => {
        tabs.set(name);
        show(name);
    };
    return { element: h("div", { class: "lx-main" }, tabs, Object.values(elements)), open, showHistory };
}

/** @param {(sentence: string) => import("../core/elements.mjs").Child} failed what follows an error */
const runView = (failed) =>
    new JobView({
        kinds: ["train"],
        memory: "run",
        failed,
        live: showProgress,
        result: finishedRun,
        stops: runStops(),
        actions: runActions(),
    });

/**
 * The panel's jobs by their kinds: the check before a run, the run, the descriptions of the pictures.
 * @param {OptionForm} options
 * @param {(page: string) => void} open shows a page of the panel
 */
function jobViews(options, open) {
    const goTo = (/** @type {string} */ name) => {
        open("form");
        options.reveal(name);
    };
    const links = (/** @type {string} */ sentence) => fieldLinks(sentence, options.names, goTo);
    const report = (/** @type {any} */ result) => preflightReport(result, links, () => open("data"));
    return {
        preflight: new JobView({ kinds: ["preflight"], result: report, failed: links }),
        train: runView(links),
        caption: new JobView({ kinds: ["caption"], result: captionReport }),
    };
}

/**
 * What starts a run, and the jobs. It stays in sight while the pages are scrolled.
 * @param {ReturnType<typeof trainingForm>} form
 * @param {ReturnType<typeof jobViews>} jobs
 * @param {() => void} check
 * @param {() => void} start
 */
const runCard = (form, jobs, check, start) =>
    h(
        "section",
        { class: "lx-card lx-stick" },
        h("h3", {}, t("Run")),
        buttonRow(
            button(t("Check first"), check, {
                tip: t("Checks pictures and settings: steps, time, memory, possible mistakes"),
            }),
            button(t("Train"), start, {
                kind: "main",
                tip: t("Puts the run into the queue; it starts when the model is free"),
            }),
        ),
        form.compare,
        Object.values(jobs).map(({ element }) => element),
    );

/** @param {HTMLElement} panel @param {TrainForm} known */
function fill(panel, known) {
    const form = trainingForm(known);
    const jobs = jobViews(form.options, (to) => shown.open(to));
    const request = () => {
        try {
            const settings = form.options.settings();
            return { settings, prompts: form.prompts.value.trim() ? form.prompts.value : triggerPrompt(settings) };
        } catch (error) {
            // the field is on the form's page, which may not be shown
            shown.open("form");
            throw error;
        }
    };
    const start = showingErrors(async () => {
        await jobs.train.run("/train", { ...request(), compare: form.compare.box.checked });
        await shown.showHistory();
    });
    const check = showingErrors(() => jobs.preflight.run("/train/preflight", request()));
    const shown = pages(known, form, start, (asked) => jobs.caption.run("/dataset/describe", asked));
    const side = runCard(form, jobs, check, start);
    setChildren(panel, h("div", { class: "lx-tool wide" }, shown.element, h("div", { class: "lx-side" }, side)));
    attach = ({ kind, id }) => void jobs[/** @type {keyof typeof jobs} */ (kind)].attach(id);
    loadRequest = ({ settings, prompts, compare }) => {
        form.compare.box.checked = compare;
        form.load(settings, prompts);
        shown.open("form");
    };
    openPage = shown.open;
    openPage(shownPage);
    if (pendingRequest) loadRequest(pendingRequest);
    if (pending) attach(pending);
    for (const view of Object.values(jobs)) view.resume();
}

registerJobOpener(["train", "preflight", "caption"], (job) => {
    showPanel("train");
    if (attach) attach(job);
    else pending = job;
});
registerPanel({
    name: "train",
    title: () => t("Train"),
    tip: () => t("Train a LoRA on your pictures"),
    order: 30,
    build: showingErrors(async (/** @type {HTMLElement} */ panel) => fill(panel, await api("/train/form"))),
    item: () => shownPage,
    open: (/** @type {RunRequest | string | undefined} */ given) => {
        if (typeof given === "string") {
            if (pageChoices().some(([name]) => name === given)) shownPage = given; // an address may name anything
            openPage?.(shownPage);
        } else if (given && loadRequest) loadRequest(given);
        else if (given) pendingRequest = given;
    },
});
