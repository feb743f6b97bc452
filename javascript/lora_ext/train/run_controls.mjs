// What is asked of a training run at work: samples, a save, other learning rates, its end.
import { post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, stack } from "../controls/basic.mjs";
import { numberField } from "../controls/number_field.mjs";
import { errorNote } from "../controls/error_note.mjs";

/** The buttons that end a run. @returns {import("../jobs/job_view.mjs").StopButton[]} */
export const runStops = () => [
    [t("Stop and save"), t("Ends the run after this step and saves it, so that it can be resumed"), {}],
    [t("Stop"), t("Ends the run at once; what was not saved yet is lost"), { save: false }],
];

/** The buttons of a run at work. @returns {[string, string, (id: string) => unknown][]} */
export const runActions = () => [
    [
        t("Sample now"),
        t("Generates the sample prompts after this step; the result of the run is the same"),
        async (job) => {
            await post("/train/control", { job, sample: true });
            toast(t("Samples follow after this step"));
        },
    ],
    [
        t("Save now"),
        t("Saves the file and a state after this step; the run continues"),
        async (job) => {
            await post("/train/control", { job, save: true });
            toast(t("It is saved after this step"));
        },
    ],
    [t("Learning rate"), t("Changes the learning rates of this run from the next step on"), changeRate],
];

/** Asks for a factor on the learning rates in a dialog. @param {string} job */
function changeRate(job) {
    const title = t("Learning rate of this run");
    const dialog = h("dialog", { class: "lx-dialog small", "aria-label": title });
    const factor = numberField(t("Times the learning rates it was started with"), 0.5, {
        low: 0.0001,
        high: 10000,
        tip: t("0.5 halves them, 1 is as started. The schedule stays."),
    });
    const wrong = stack(); // the page's own messages are behind the dialog
    const change = async () => {
        try {
            await post("/train/control", { job, lr_factor: factor.get() });
            dialog.close();
            toast(t("The learning rate changes with the next step; the log and the file say so"));
        } catch (error) {
            setChildren(wrong, errorNote(error));
        }
    };
    dialog.append(
        h("h3", {}, title),
        factor,
        wrong,
        buttonRow(
            button(t("Change"), change, { kind: "main", tip: t("Acts from the next step on, also after a resume") }),
            button(t("Cancel"), () => dialog.close(), { tip: t("Leaves the learning rates as they are (Escape)") }),
        ),
    );
    dialog.addEventListener("close", () => dialog.remove());
    /** @type {HTMLElement} */ (document.getElementById("lora-ext")).append(dialog);
    dialog.showModal();
    factor.box.select();
}
