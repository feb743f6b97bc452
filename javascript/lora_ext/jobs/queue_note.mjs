// In a web UI: why txt2img and img2img wait, told beside their progress while a job has the model.
import { h } from "../core/elements.mjs";
import { on } from "../core/events.mjs";
import { page } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { jobTitle, percentDone } from "./job_state.mjs";

/** @typedef {import("../api_types").JobSummary} JobSummary */

const STYLE = {
    margin: "0 0 8px",
    padding: "6px 10px",
    border: "1px solid currentColor",
    "border-radius": "6px",
    "overflow-wrap": "anywhere",
};
const notes = ["txt2img", "img2img"].map((name) => ({
    gallery: `${name}_gallery_container`,
    id: `lora-ext-waiting-${name}`,
    element: /** @type {HTMLElement | null} */ (null),
}));

/** @param {JobSummary} job */
const text = (job) =>
    t(
        "LoRA ext is using the model ({0}: {1}, {2} %); pictures wait in the queue until it is done. " +
            "Jobs in the LoRA tab can stop it.",
        t(job.kind),
        jobTitle(job),
        Math.round(percentDone(job)),
    );

on("busy", (/** @type {JobSummary | null} */ job) => {
    if (!page.choices || !page.choices.prompts) return;
    for (const note of notes) {
        const element = (note.element ||= h("p", { id: note.id, role: "status", style: STYLE }));
        const gallery = document.getElementById(note.gallery);
        if (!job || !gallery || !gallery.parentNode) {
            element.remove();
            continue;
        }
        if (element.textContent !== text(job)) element.textContent = text(job);
        if (element.parentNode !== gallery.parentNode) gallery.parentNode.insertBefore(element, gallery);
    }
});
