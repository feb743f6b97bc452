// Start here: what is taught, its pictures, one button, and the sheet to choose from.
import { api } from "../core/api.mjs";
import { debounce } from "../core/debounce.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors } from "../core/messages.mjs";
import { registerPanel, showPanel } from "../core/panels.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, note } from "../controls/basic.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { PictureField } from "../start/picture_field.mjs";
import { runAndSheet } from "../start/run_and_sheet.mjs";
import { errorLine, stepCard } from "../start/steps.mjs";
import { subjectCard } from "../start/subject_card.mjs";
import { SuggestedSettings } from "../start/suggested_settings.mjs";
import { captionReport } from "../train/caption_editor.mjs";
import { trainingAspect } from "../train/crop_box.mjs";

/** @typedef {import("../api_types").TrainForm} TrainForm */
/** @typedef {import("../start/subject_card.mjs").Subject & { dataset: string }} Stored */

/** What is entered: subject, pictures and settings, which follow both. @param {TrainForm} form */
function entries(form) {
    const none = { kind: "", name: "", trigger: "", checkpoint: "", dataset: "" };
    const last = /** @type {Stored} */ ({ ...none, ...loadStored("start", {}) });
    const remember = debounce(300, () => store("start", { ...subject.entered(), dataset: pictures.dataset }));
    const subject = subjectCard(form.loaded, last, () => {
        remember();
        settings.update();
    });
    const captions = new JobView({ kinds: ["caption"], result: captionReport });
    const pictures = new PictureField({
        ...form,
        chosen: last.dataset,
        newName: () => subject.get().name || subject.get().kind || "pictures",
        aspect: () => trainingAspect(settings.resolution),
        describe: (request) => captions.run("/dataset/describe", request),
        onchange: () => {
            remember();
            settings.renew();
        },
    });
    /** @type {SuggestedSettings} */
    const settings = new SuggestedSettings(form, () => {
        const { kind, name, trigger, checkpoint } = subject.get();
        const { dataset, count } = pictures;
        return kind && name && dataset && count ? { kind, dataset, trigger, checkpoint } : null;
    });
    return { subject, captions, pictures, settings, missing: errorLine(pictures.zone) };
}

/** What a run needs. Throws FieldError where something is missing. @param {ReturnType<typeof entries>} entered */
async function runRequest({ subject, pictures, settings, missing }) {
    subject.check();
    missing.show("");
    if (!pictures.count) missing.fail(t("Add pictures first."));
    const { name, trigger, checkpoint } = subject.get();
    const { settings: suggested, prompts } = await settings.get();
    const own = { output_name: name, train_data_dir: pictures.dataset, metadata_trigger_phrase: trigger };
    const model = checkpoint ? { pretrained_model_name_or_path: checkpoint } : {};
    return { settings: { ...suggested, ...own, ...model }, prompts, compare: true };
}

/** @param {HTMLElement} panel @param {TrainForm} form */
function fill(panel, form) {
    const entered = entries(form);
    const { subject, captions, pictures, settings, missing } = entered;
    const { train, card, start } = runAndSheet();
    const run = showingErrors(async () => start(await runRequest(entered)));
    const takeOver = showingErrors(async () => showPanel("train", await runRequest(entered)));
    const about = t(
        "All settings follow from your pictures and the model. About ten files are saved on the way; you choose one " +
            "afterwards.",
    );
    const buttons = buttonRow(
        button(t("Train"), run, {
            kind: "main",
            tip: t("Puts the run into the queue; it starts when the model is free"),
        }),
        button(t("Change these in the Train form"), takeOver, {
            kind: "quiet",
            tip: t("Opens Train with these settings, where all others are too"),
        }),
    );
    const steps = [
        subject.element,
        stepCard(2, t("Your pictures"), pictures.elements, missing, captions.element),
        stepCard(3, t("Train"), note(about), settings.summary, buttons, train.element, settings.details),
        card,
    ];
    setChildren(panel, h("div", { class: "lx-steps" }, steps));
    pictures.refresh();
    train.resume();
    captions.resume();
}

registerPanel({
    name: "start",
    title: () => t("Start here"),
    tip: () => t("From your pictures to a LoRA, step by step"),
    order: 5,
    build: showingErrors(async (/** @type {HTMLElement} */ panel) => fill(panel, await api("/train/form"))),
});
