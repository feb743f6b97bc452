// A place that shows one job: its bar, words, time left and log, a button that stops it, and its result.
import { api, post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { emit } from "../core/events.mjs";
import { messageOf, showingErrors, toast } from "../core/messages.mjs";
import { pageWords } from "../core/server_sentences.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, summary } from "../controls/basic.mjs";
import { barWidth, hasEnded, jobTitle, percentDone, progressText, stateName } from "./job_state.mjs";
import { errorNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").JobSummary} JobSummary */
/** @typedef {import("../api_types").JobAnswer} JobAnswer */
/** @typedef {import("../core/elements.mjs").Child} Child */
/** @typedef {readonly [string, string, import("../core/api.mjs").Query]} StopButton text, tooltip, query of the call */
/**
 * @typedef {object} JobViewOptions
 * @property {string[]} [kinds] of jobs that it shows again after the page was loaded again
 * @property {string | null} [empty] what it says before the first job
 * @property {readonly (readonly [string, string, (id: string) => unknown])[]} [actions] buttons of a running job: text,
 * tooltip, what a click does
 * @property {readonly StopButton[]} [stops] the buttons that end a job; without it, one
 * @property {(place: HTMLElement, job: JobAnswer) => void} [live] shows what a running job has so far
 * @property {(result: any, job: JobAnswer) => Child} [result] the elements for a job's result
 * @property {(error: string) => Child} [failed] what follows an error, which is in English
 * @property {string} [memory] under which name the browser keeps the job that is followed, so that one that ends while
 * the page is closed is shown when it is opened again
 */

/** @param {string} id */
export const jobPath = (id) => `/jobs/${encodeURIComponent(id)}`;

/**
 * Follows a job.
 * @param {string} id
 * @param {(job: JobAnswer) => void} show called at each report
 * @param {() => boolean} alive asked after each report; without it nothing more is asked
 * @returns {Promise<JobAnswer>} the last report
 */
export async function followJob(id, show, alive) {
    for (;;) {
        const job = await api(jobPath(id));
        show(job);
        if (hasEnded(job)) return job;
        await new Promise((wake) => setTimeout(wake, document.hidden ? 3000 : 400));
        if (!alive()) return job;
    }
}

function progressBar() {
    const fill = h("i", {});
    const limits = { "aria-valuemin": 0, "aria-valuemax": 100 };
    return {
        fill,
        bar: h("div", { class: "lx-bar", role: "progressbar", "aria-label": t("Progress"), ...limits }, fill),
    };
}

/** A function that says a line of a log in the page's language; each is looked up once, since a log is shown often. */
function lineWords() {
    /** @type {Map<string, string>} */
    const known = new Map();
    return (/** @type {string} */ line) => {
        const words = known.get(line) ?? pageWords(line);
        known.set(line, words);
        return words;
    };
}

/**
 * The parts that show a job's state.
 * @param {readonly StopButton[]} stops
 * @param {NonNullable<JobViewOptions["actions"]>} actions
 * @param {() => string} currentId
 */
function stateParts(stops, actions, currentId) {
    const running = actions.map(([text, tip, act]) =>
        button(
            text,
            showingErrors(() => act(currentId())),
            { tip },
        ),
    );
    const { bar, fill } = progressBar();
    const words = h("span", { class: "lx-job-words" });
    const buttons = stops.map(([text, tip, query]) =>
        button(
            text,
            showingErrors(() => api(`${jobPath(currentId())}/cancel`, { method: "POST", query })),
            { tip },
        ),
    );
    const log = h("pre", { class: "lx-log" });
    const said = lineWords();
    const logs = h("details", {}, summary(t("Log")), log);
    const head = buttonRow(words, running, buttons);
    /** @param {JobAnswer} job */
    const show = (job) => {
        fill.style.width = barWidth(job);
        bar.setAttribute("aria-valuenow", String(Math.round(percentDone(job))));
        bar.classList.toggle("busy", job.state === "running" && !job.total);
        setChildren(words, h("b", {}, job.stopping ? t("stopping…") : stateName(job)), " ", progressText(job));
        for (const one of running) one.hidden = job.state !== "running";
        for (const one of buttons) {
            one.hidden = hasEnded(job);
            one.disabled = job.stopping;
        }
        const lines = job.log.map(said).join("\n");
        if (log.textContent !== lines) log.textContent = lines;
        logs.hidden = !job.log.length;
    };
    return { head, bar, logs, show };
}

/** Shows one job. A job that has not ended stays in sight when another one is started; the others are listed below. */
export class JobView {
    current = "";
    title = "";
    /** @type {Promise<JobAnswer> | null} the job that is followed */
    following = null;
    /** @type {Map<string, string>} other jobs that were started here: id → title */
    others = new Map();

    /** @param {JobViewOptions} options */
    constructor({ live, result, failed, kinds = [], stops, actions = [], empty = null, memory = "" }) {
        this.live = live || (() => {});
        this.result = result || (() => null);
        this.failed = failed || (() => null);
        this.kinds = kinds;
        this.memory = memory && `job.${memory}`;
        this.element = h("div", { class: "lx-job", "aria-live": "polite", "data-empty": empty });
        this.parts = stateParts(stops || [[t("Stop"), t("Stop this job"), {}]], actions, () => this.current);
        this.shown = h("div", { class: "lx-live" });
        this.out = h("div", { class: "lx-result" });
        this.also = h("div", { class: "lx-result lx-also" });
    }

    isBusy() {
        return Boolean(this.current) && !hasEnded(this.element.dataset);
    }

    /** The other jobs: a click shows one in the place of this one. */
    showOthers() {
        const tip = t("Shows this job here instead of the other");
        const show = (/** @type {string} */ id) => button(t("Show"), () => this.attach(id), { kind: "quiet", tip });
        const lines = [...this.others].map(([id, title]) =>
            buttonRow(h("span", {}, t("Also started: {0}", title)), show(id)),
        );
        setChildren(this.also, lines);
    }

    /** @param {JobAnswer} job */
    show(job) {
        this.title = jobTitle(job);
        this.element.dataset.state = job.state;
        this.parts.show(job);
        this.live(this.shown, job);
    }

    /** @param {string} id */
    async follow(id) {
        const { head, bar, logs } = this.parts;
        setChildren(this.element, head, bar, this.shown, this.out, logs, this.also);
        setChildren(this.out);
        delete this.element.dataset.state;
        this.showOthers();
        const isShown = () => this.current === id && this.element.isConnected;
        const job = await followJob(id, (now) => this.show(now), isShown);
        if (this.current !== id || !hasEnded(job)) return job;
        if (this.memory) store(this.memory, "");
        const error = job.error || "";
        if (job.state === "failed") setChildren(this.out, errorNote(error), this.failed(error));
        if (job.state === "done" || job.result) setChildren(this.out, this.result(job.result, job));
        emit("jobs");
        return job;
    }

    /**
     * Follows a job. Called again for the same one it goes on as before, so that a result is shown once.
     * @param {string} id
     */
    attach(id) {
        if (this.current === id && this.following) return this.following;
        if (this.isBusy() && this.title) this.others.set(this.current, this.title);
        this.others.delete(id);
        this.current = id;
        if (this.memory) store(this.memory, id);
        this.following = this.follow(id);
        return this.following;
    }

    /** @param {...Child} children what is shown in the place of the job */
    clear(...children) {
        setChildren(this.element, children);
        this.current = "";
    }

    /**
     * Starts a job by a call of the API, and shows it; null where it was refused.
     * @param {string} path
     * @param {unknown} [body]
     * @returns {Promise<JobSummary | null>}
     */
    async run(path, body) {
        const wasBusy = this.isBusy();
        if (!wasBusy) {
            this.clear();
            delete this.element.dataset.state;
        }
        try {
            const job = await post(path, body);
            emit("jobs");
            if (!this.isBusy()) return await this.attach(job.id);
            this.others.set(job.id, jobTitle(job));
            this.showOthers();
            toast(t("{0} is in the queue; Jobs shows all of them", jobTitle(job)));
            return job;
        } catch (error) {
            if (wasBusy) toast(messageOf(error), "bad");
            else this.clear(errorNote(error), this.failed(/** @type {Error} */ (error).message));
            return null;
        }
    }

    /** After the page was loaded again: shows the job of its kinds that runs, will next, or ended meanwhile. */
    resume = showingErrors(async () => {
        const { jobs } = await api("/jobs");
        const mine = jobs.filter((job) => this.kinds.includes(job.kind) && !hasEnded(job));
        const last = this.memory && loadStored(this.memory, "");
        const ended = jobs.find((job) => job.id === last && hasEnded(job));
        const found = mine.find((job) => job.state === "running") || mine[0] || ended;
        if (found && !this.current) this.attach(found.id);
    });
}
