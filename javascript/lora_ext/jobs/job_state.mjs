// States of jobs in words and numbers.
import { formatDuration } from "../core/format.mjs";
import { pageWords } from "../core/server_sentences.mjs";
import { t } from "../core/strings.mjs";

/** @typedef {import("../api_types").JobSummary} JobSummary */
/** @typedef {import("../api_types").JobAnswer} JobAnswer */

/** @param {{ state?: string | undefined }} job */
export const hasEnded = ({ state }) => ["done", "failed", "cancelled"].includes(state || "");

/** @param {JobSummary} job */
export const stateName = ({ state, stopped }) =>
    ({
        waiting: t("waiting"),
        running: t("running"),
        done: stopped ? t("stopped") : t("done"),
        failed: t("failed"),
        cancelled: t("cancelled"),
    })[state];

/**
 * What a job is called: mostly by what it works on, else by its kind.
 * @param {{ kind: string, title: string }} job
 */
export const jobTitle = ({ kind, title }) => (title === kind ? t(kind) : title);

/**
 * How far it is, in percent.
 * @param {JobSummary} job
 */
export const percentDone = ({ done, total }) => (total ? (100 * done) / total : 0);

/** @param {JobSummary} job */
export const barWidth = (job) => `${job.state === "done" && !job.stopped ? 100 : percentDone(job)}%`;

/**
 * The time that it still takes or took, "" where that is not known.
 * @param {JobSummary} job
 */
export const timeLeft = ({ left }) => (left ? t("{0} left", formatDuration(left)) : "");

/**
 * Its state; of a running job what it does now, since the time left is that of the stage.
 * @param {JobSummary} job
 */
export const stateOrStage = (job) =>
    job.state === "running" && job.text && job.text !== job.kind ? pageWords(t(job.text)) : stateName(job);

/**
 * Steps, what it does, and times, in one line.
 * @param {JobAnswer} job
 */
export function progressText(job) {
    const steps = job.state === "running" && job.total ? `${Math.floor(job.done)} / ${job.total}` : "";
    const text = hasEnded(job) || "progress" in job.live ? "" : pageWords(t(job.text));
    const took = job.ended && job.started ? formatDuration(job.ended - job.started) : "";
    return [steps, text, timeLeft(job), took].filter(Boolean).join(" · ");
}
