// The suggested settings of a run: asked for when pictures or kind change, shown with their reasons, and changeable.
import { api, post } from "../core/api.mjs";
import { debounce } from "../core/debounce.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { formatRoughDuration } from "../core/format.mjs";
import { t } from "../core/strings.mjs";
import { note, stack, summary } from "../controls/basic.mjs";
import { followJob, jobPath } from "../jobs/job_view.mjs";
import { optionControl } from "../train/option_controls.mjs";
import { sameValue } from "../train/option_form.mjs";
import { errorNote, saidNote } from "../controls/error_note.mjs";
import { RegularisationBox } from "./regularisation_box.mjs";

/** @typedef {import("../api_types").TrainForm} TrainForm */
/** @typedef {import("../api_types").SuggestedTraining} Suggested */
/** @typedef {import("../train/option_controls.mjs").OptionControl} OptionControl */
/** @typedef {{ kind: string, dataset: string, trigger: string, checkpoint: string }} Asked */

/** Asks the program; the job is not kept in the list of jobs. @param {Asked} asked @returns {Promise<Suggested>} */
async function suggestionFor(asked) {
    const { id } = await post("/teach/suggest", asked);
    const job = await followJob(
        id,
        () => {},
        () => true,
    );
    if (job.state === "done") await api(jobPath(id), { method: "DELETE" });
    if (!job.result) throw new Error(job.error || t("stopped"));
    return /** @type {Suggested} */ (job.result);
}

/** Why it is suggested, in the page's language. @param {{ template: string, values: (string | number)[] }} row */
const reasonOf = ({ template, values }) =>
    t(template, ...values.map((value) => (typeof value === "string" ? t(value) : value)));

/**
 * How long the training is, before it begins.
 * @param {import("../api_types").ExpectedLength} expected
 */
function lengthWords({ steps, least_seconds: low, most_seconds: high }) {
    if (!low || !high) {
        return t("{0} steps as suggested. How long they take is shown once the first ones are done.", steps);
    }
    return t(
        "{0} steps as suggested, about {1} to {2} on this computer; pictures that are drawn (samples, the sheet) " +
            "take time beside.",
        steps,
        formatRoughDuration(low),
        formatRoughDuration(high),
    );
}

export class SuggestedSettings {
    /** What the settings come to, in a sentence. */
    summary = stack();
    /** All of them. */
    details = stack();
    /** @type {Record<string, OptionControl>} */
    controls = {};
    regularisation = new RegularisationBox();
    /** @type {Record<string, any>} the user's own values, which a new suggestion leaves */
    changed = {};
    known = "";
    prompts = "";
    /** @type {Promise<void>} */
    asking = Promise.resolve();
    /** Asks soon, when the user pauses. */
    update = debounce(300, () => void this.ask().catch(() => {}));

    /**
     * @param {TrainForm} form
     * @param {() => Asked | null} asked what the settings are for; null while something is missing
     */
    constructor(form, asked) {
        this.form = form;
        this.asked = asked;
    }

    /** The training's resolution as it is set; nothing before it is known. */
    get resolution() {
        return this.controls.resolution?.raw();
    }

    /** Asks again, also for what was asked before: pictures or captions have changed. */
    renew() {
        this.known = "";
        this.update();
    }

    /** The settings and the sample prompts. Throws FieldError where a setting cannot be read. */
    async get() {
        await this.ask();
        const used = Object.entries(this.controls).filter(([name]) => this.regularisation.uses(name));
        const settings = Object.fromEntries(used.map(([name, { get }]) => [name, get()]));
        return { settings, prompts: this.prompts };
    }

    /** Asks for what is not known yet, one after the other. */
    ask() {
        this.asking = this.asking.catch(() => {}).then(() => this.askNow());
        return this.asking;
    }

    async askNow() {
        const now = this.asked();
        const key = JSON.stringify(now);
        if (key === this.known) return;
        this.known = key;
        this.controls = {};
        setChildren(this.details);
        setChildren(this.summary, now ? note(t("Looking at the pictures and the model …")) : null);
        if (!now) return;
        try {
            const found = await suggestionFor(now);
            if (this.known === key) this.show(found);
        } catch (error) {
            setChildren(this.summary, errorNote(error));
            this.known = "";
            throw error;
        }
    }

    /** @param {Suggested} found */
    show(found) {
        this.prompts = found.prompts;
        const rows = found.settings.flatMap((row) => this.row(row) || []);
        const more = found.regularisation.settings.flatMap((row) => this.row(row) || []);
        const time = note("");
        const tellTime = () =>
            (time.textContent = lengthWords(this.regularisation.on ? found.regularisation.expected : found.expected));
        const length = found.settings.find(({ name }) => name === "max_train_epochs");
        setChildren(
            this.summary,
            length ? note(reasonOf(length)) : null,
            found.skipped.map((line) => saidNote(line, "bad")),
            this.regularisation.show(found.regularisation, reasonOf(found.regularisation), more, tellTime),
            time,
        );
        tellTime();
        setChildren(
            this.details,
            h(
                "details",
                {},
                summary(t("All settings, and why: {0}", rows.length)),
                h("div", { class: "lx-grid lx-reasons" }, rows),
            ),
        );
    }

    /** A setting with its reason; null where the form has none. @param {Suggested["settings"][number]} row */
    row(row) {
        const { name, value } = row;
        const option = this.form.fields.find((one) => one.name === name);
        if (!option) return null;
        const control = optionControl(option, this.form, () => {
            this.changed[name] = control.raw();
            tell();
        });
        control.set(name in this.changed ? this.changed[name] : value);
        this.controls[name] = control;
        const line = h("small", {});
        const tell = () => (line.textContent = sameValue(control.raw(), value) ? reasonOf(row) : t("as you set it"));
        tell();
        for (const one of control.element.querySelectorAll(":scope > small")) one.remove();
        control.element.append(line);
        return control.element;
    }
}
