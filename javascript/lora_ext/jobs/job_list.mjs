// The list of all jobs at the page's bottom, and the note on who applies tags.
import { api, post } from "../core/api.mjs";
import { h, setChildren, updateRows } from "../core/elements.mjs";
import { closeOnEscape } from "../core/escape.mjs";
import { emit, on } from "../core/events.mjs";
import { showingErrors } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { button, note } from "../controls/basic.mjs";
import { openJob } from "./job_openers.mjs";
import { barWidth, hasEnded, jobTitle, percentDone, stateOrStage, timeLeft } from "./job_state.mjs";
import { jobPath } from "./job_view.mjs";

/** @typedef {import("../api_types").JobSummary} JobSummary */
/** @typedef {import("../api_types").JobList} JobAnswer */

const MOST_ENDED = 40;

/**
 * The buttons of a job: a waiting one can be moved in the queue, one that has ended taken off the list.
 * @param {JobSummary} job
 * @param {() => void} refresh
 */
function jobButtons(job, refresh) {
    const path = jobPath(job.id);
    /** @param {string} text @param {string} tip @param {() => Promise<unknown>} act */
    const acting = (text, tip, act) => {
        const onclick = showingErrors(async () => {
            await act();
            refresh();
        });
        return button(text, onclick, { kind: "quiet", tip, "aria-label": tip });
    };
    /** @param {string} to @param {string} sign @param {string} tip */
    const move = (to, sign, tip) => acting(sign, tip, () => post(`${path}/move`, { to }));
    const moves = () => [
        move("first", "⤒", t("Move to the front of the queue")),
        move("up", "↑", t("Move one place up")),
        move("down", "↓", t("Move one place down")),
    ];
    const stop = async () => {
        await post(`${path}/cancel`);
        refresh();
    };
    const end = hasEnded(job)
        ? acting("×", t("Remove from the list"), () => api(path, { method: "DELETE" }))
        : button(t("Stop"), showingErrors(stop), { tip: t("Stop this job") });
    return { moves: job.state === "waiting" ? moves() : [], end };
}

/**
 * One job: its name opens its panel.
 * @param {JobSummary} job
 * @param {() => void} refresh
 */
function jobLine(job, refresh) {
    const { moves, end } = jobButtons(job, refresh);
    const words = h("small", {}),
        fill = h("i", {});
    const name = h(
        "button",
        { type: "button", class: "lx-jobname", title: t("Open the panel of this job"), onclick: () => openJob(job) },
        h("b", {}, jobTitle(job)),
        words,
    );
    const element = h(
        "div",
        { class: "lx-jobline", "data-state": job.state },
        name,
        moves.length ? h("div", { class: "lx-moves" }, moves) : h("div", { class: "lx-bar" }, fill),
        end,
    );
    return Object.assign(element, {
        /** Shows how far it is. queue: the waiting jobs of its lane, next one first. */
        show(/** @type {JobSummary} */ now, /** @type {JobSummary[]} */ queue) {
            const at = queue.findIndex((one) => one.id === now.id);
            const place = at >= 0 && queue.length > 1 ? `${at + 1} / ${queue.length}` : "";
            words.textContent = [t(now.kind), stateOrStage(now), place, timeLeft(now)].filter(Boolean).join(" · ");
            fill.style.width = barWidth(now);
            moves.forEach((one, i) => (one.disabled = i < 2 ? at === 0 : at === queue.length - 1));
        },
    });
}

class JobList {
    timer = 0;
    /** The library's version at the last look; "" before the first one. */
    library = "";

    constructor() {
        this.list = h("div", { class: "lx-jobs", hidden: true });
        this.face = h("button", {
            type: "button",
            class: "lx-job-menu-face",
            "aria-expanded": "false",
            title: t("All jobs: progress, log, results"),
            onclick: () => this.toggle(),
        });
        closeOnEscape(
            () => !this.list.hidden,
            () => {
                this.toggle();
                this.face.focus();
            },
        );
        this.notice = note("", "bad");
        this.notice.hidden = true;
    }

    toggle() {
        this.list.hidden = !this.list.hidden;
        this.face.setAttribute("aria-expanded", String(!this.list.hidden));
        this.refresh();
    }

    /**
     * @param {JobSummary[]} jobs in the order in which they are listed
     * @param {JobSummary[]} waiting
     */
    showLines(jobs, waiting) {
        updateRows(
            this.list,
            jobs.length ? jobs : [null],
            (job) => (job ? `${job.id} ${job.state}` : ""),
            (job) => (job ? jobLine(job, () => this.refresh()) : note(t("No jobs yet."))),
        );
        const lines = /** @type {Iterable<ReturnType<typeof jobLine>>} */ (this.list.children);
        [...lines].slice(0, jobs.length).forEach((line, i) =>
            line.show(
                jobs[i],
                waiting.filter((job) => job.lane === jobs[i].lane),
            ),
        );
    }

    /**
     * Shows the newest state, and tells other parts what is new.
     * @param {JobAnswer} answer
     * @returns whether a job runs or waits
     */
    show({ jobs, library, applied_by: owner }) {
        this.notice.hidden = !owner;
        if (owner) setChildren(this.notice, ownerNote(owner));
        const running = jobs.filter((job) => job.state === "running");
        const waiting = jobs.filter((job) => job.state === "waiting");
        const ended = jobs.filter(hasEnded).slice(-MOST_ENDED).reverse();
        emit("busy", running.find((job) => job.lane === "model") || null);
        setChildren(this.face, faceOf(running[0], running.length + waiting.length - 1));
        if (!this.list.hidden) this.showLines([...running, ...waiting, ...ended], waiting);
        if (this.library && this.library !== library.join()) emit("library");
        this.library = library.join();
        return running.length + waiting.length > 0;
    }

    /** Asks for the jobs now, and again after a while. */
    async refresh() {
        clearTimeout(this.timer);
        let busy = false;
        try {
            busy = this.show(await api("/jobs"));
        } catch {
            /* an error is shown where something was asked for */
        }
        this.timer = window.setTimeout(() => this.refreshShown(), document.hidden ? 10000 : busy ? 900 : 6000);
    }

    /** A web UI that starts again empties the page, and ends in an error where something is asked of it too early. */
    refreshShown() {
        if (this.face.isConnected) this.refresh();
    }
}

/** @param {string} owner the extension that applies tags */
const ownerNote = (owner) =>
    t(
        "LoRA tags are applied by {0}: lbw=, step= and whatever else LoRA ext adds to a tag has " +
            "no effect in pictures.",
        owner,
    );

/** @param {JobSummary | undefined} first the running job @param {number} more how many others run or wait */
function faceOf(first, more) {
    const share = first && first.total ? ` · ${Math.round(percentDone(first))} %` : "";
    const text = first ? `${jobTitle(first)}${share}` : t("Jobs");
    return [first ? h("span", { class: "lx-dot" }) : null, text, more > 0 ? ` +${more}` : ""];
}

on("mounted", () => {
    const [top, place] = [".lx-top", ".lx-job-menu"].map((selector) => page.root.querySelector(selector));
    if (!top || !place) return;
    const jobs = new JobList();
    top.after(jobs.notice);
    setChildren(place, jobs.list, jobs.face);
    on("jobs", () => jobs.refresh());
    jobs.refresh();
});
