// Which panel shows a job.

/** @typedef {{ id: string, kind: string }} JobName */

/** @type {Map<string, (job: JobName) => void>} */
const openers = new Map();

/**
 * @param {string[]} kinds of jobs
 * @param {(job: JobName) => void} open shows the panel with the job
 */
export function registerJobOpener(kinds, open) {
    for (const kind of kinds) openers.set(kind, open);
}

/** @param {JobName} job */
export function openJob(job) {
    const open = openers.get(job.kind);
    if (open) open(job);
}
