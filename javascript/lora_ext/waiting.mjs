// In a web UI: why txt2img and img2img wait, said beside their progress while a job of ours has the model.
"use strict";
(() => {
    const X = window.loraExt;
    const { h, t } = X;
    const notes = ["txt2img", "img2img"].map((name) => ({ name, note: h("p", { id: `lora-ext-waiting-${name}`, role: "status", style: {
        margin: "0 0 8px", padding: "6px 10px", border: "1px solid currentColor", "border-radius": "6px", "overflow-wrap": "anywhere" } }) }));

    /** job: the one that has the model, or null. */
    X.on("busy", (job) => {
        if (!X.choices || !X.choices.prompts) return;
        for (const { name, note } of notes) {
            const gallery = document.getElementById(`${name}_gallery_container`);
            if (!job || !gallery) {
                note.remove();
                continue;
            }
            const share = job.total ? Math.round((100 * job.done) / job.total) : 0;
            const text = t("LoRA ext is using the model ({0}: {1}, {2} %); pictures wait in the queue until it is done. Jobs in the LoRA tab can stop it.", t(job.kind), job.title, share);
            if (note.textContent !== text) note.textContent = text;
            if (note.parentNode !== gallery.parentNode) gallery.parentNode.insertBefore(note, gallery);
        }
    });
})();
