// Training runs: one at work, one that has ended, and those of before.
import { api, apiUrl, post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { formatBytes, formatDate, formatDuration } from "../core/format.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, facts, note, outsideLink, buttonRow, stack, summary, table } from "../controls/basic.mjs";
import { openJob } from "../jobs/job_openers.mjs";
import { newFiles } from "../library/new_files.mjs";
import { trainingCurves } from "../library/training_curves.mjs";
import { errorNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").JobAnswer} JobAnswer */
/** @typedef {import("../api_types").RunRecord} RunRecord */
/** @typedef {import("../api_types").TrainResult} TrainResult */
/** @typedef {import("../api_types").TrainProgress} TrainProgress */

const MOST_SAMPLES = 8;

/** @param {string} path */
const lastPart = (path) => path.split("/").pop() || "";

/** The newest sample pictures. @param {string[]} names */
const samplePictures = (names) =>
    h(
        "div",
        { class: "lx-samples" },
        names
            .slice(-MOST_SAMPLES)
            .reverse()
            .map((name) => {
                const address = apiUrl("/pictures", { name });
                const image = h("img", { src: address, alt: lastPart(name), loading: "lazy" });
                return outsideLink(address, { title: lastPart(name) }, image);
            }),
    );

/**
 * What a run at work has so far.
 * @param {HTMLElement} place
 * @param {JobAnswer} job
 */
export function showProgress(place, job) {
    const now = /** @type {TrainProgress} */ (job.live);
    if (!now.rows || (job.state !== "running" && job.state !== "cancelled")) {
        if (job.state !== "running") setChildren(place);
        return;
    }
    const key = `${now.rows.length}/${now.samples.length}/${now.files.length}`;
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    const wasOpen = place.querySelector("details[open]") !== null;
    const [, , smoothed] = now.rows[now.rows.length - 1] || [];
    const { epoch, epochs } = now.progress;
    setChildren(
        place,
        facts([
            [t("epoch"), epochs ? `${epoch} / ${epochs}` : ""],
            [t("loss"), smoothed ? smoothed.toFixed(4) : ""],
            [t("memory"), now.memory ? formatBytes(now.memory) : ""],
        ]),
        trainingCurves(now.rows),
        now.samples.length ? samplePictures(now.samples) : null,
        now.files.length ? note(t("Saved: {0}", now.files.join(", "))) : null,
    );
    const details = place.querySelector("details");
    if (wasOpen && details) details.open = true;
}

/**
 * A button for the sheet of a run's epochs × weights: the one that was started with it, or a new one.
 * @param {RunRecord & { sheet?: string }} run
 */
function sheetButton(run) {
    if (!run.files || !run.files.length) return null;
    const open = showingErrors(async () => {
        const id = run.sheet || (await post(`/train/${encodeURIComponent(run.name)}/compare`)).id;
        openJob({ kind: "compare", id });
    });
    return button(run.sheet ? t("Show the sheet") : t("Compare epochs × weights"), open, {
        kind: "main",
        tip: t("Every saved file at increasing weights, on the sample prompts"),
    });
}

/** @param {string} name of a run */
const curvesOf = async (name) => trainingCurves((await api("/train/curve", { query: { name } })).rows);

/** The result of a run. @param {TrainResult | null} run */
export function finishedRun(run) {
    if (!run) return null;
    const text = run.stopped
        ? t("Stopped and saved after {0} steps.", run.steps)
        : t("{0} steps in {1}.", run.steps, formatDuration(run.seconds));
    const place = stack(
        note(text, "good"),
        buttonRow(sheetButton(run)),
        newFiles(run.files),
        run.samples.length ? samplePictures(run.samples) : null,
    );
    showingErrors(async () => place.append(...(await curvesOf(run.name))))();
    return place;
}

/** @param {RunRecord} run */
function runState({ error, stopped, ended }) {
    if (error) return t("failed");
    if (stopped) return t("stopped");
    return ended ? t("done") : t("not finished");
}

/** @param {RunRecord} run */
const runSummary = (run) =>
    [
        run.begun ? formatDate(run.begun) : "",
        runState(run),
        run.steps ? t("{0} steps", run.steps) : "",
        run.loss ? t("loss {0}", run.loss.toFixed(4)) : "",
    ]
        .filter(Boolean)
        .join(" · ");

/**
 * Buttons that use an earlier run: its settings, or its saved state.
 * @param {RunRecord} run
 * @param {(settings: Record<string, any>, prompts: string) => void} load shows settings in the form
 * @param {() => void} start starts a run with the form's settings
 */
function runButtons(run, load, start) {
    const use = (/** @type {Record<string, any>} */ more) => {
        load({ ...run.settings, ...more }, run.prompts);
        toast(t("Settings loaded"));
    };
    const resume = () => {
        use({ resume: run.state });
        start();
    };
    return buttonRow(
        button(t("Use these settings"), () => use({}), { tip: t("Loads this run's settings into the form") }),
        run.state
            ? button(t("Resume"), resume, {
                  kind: "main",
                  tip: t("Resumes the run from its saved state; the result is the same as without the stop"),
              })
            : null,
    );
}

/**
 * A run of before. Its content is loaded when it is opened.
 * @param {RunRecord} run
 * @param {(settings: Record<string, any>, prompts: string) => void} load shows settings in the form
 * @param {() => void} start starts a run with the form's settings
 */
export function pastRun(run, load, start) {
    const body = stack();
    const box = h(
        "details",
        { class: "lx-card lx-run" },
        summary(h("b", {}, run.name), " ", h("small", {}, runSummary(run))),
        body,
    );
    box.addEventListener(
        "toggle",
        showingErrors(async () => {
            if (!box.open || body.childNodes.length) return;
            const settings = Object.entries(run.settings).map(([name, value]) => [name, String(value)]);
            setChildren(
                body,
                run.error ? errorNote(run.error) : null,
                runButtons(run, load, start),
                table([t("setting"), t("value")], settings),
                buttonRow(sheetButton(run)),
                newFiles(run.files || []),
                samplePictures(run.samples || []),
            );
            body.append(...(await curvesOf(run.name)));
        }),
    );
    return box;
}
