// The run of Start here, and the sheet of its files × weights that follows it.
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { note, stack, summary } from "../controls/basic.mjs";
import { runningSheet } from "../compare/running_sheet.mjs";
import { unfinishedNote } from "../compare/sheet_history.mjs";
import { sheetView } from "../compare/sheet_view.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { runActions, runStops } from "../train/run_controls.mjs";
import { finishedRun, showProgress } from "../train/run_view.mjs";
import { stepCard } from "./steps.mjs";

/** @typedef {import("../api_types").TrainResult} TrainResult */
/** @typedef {import("../api_types").SheetDetails} Sheet */

/** The files, samples and curves of a run. @param {TrainResult} run */
const folded = (run) => h("details", {}, summary(t("Files, samples and curves")), finishedRun(run));

const aboutSheet = () =>
    t(
        "Each column is a saved file, each row a weight. A click on a picture shows its tag; the suggested one has a " +
            "green frame.",
    );

export function runAndSheet() {
    const out = stack(),
        running = runningSheet();
    const sheet = new JobView({
        live: running.show,
        result: (/** @type {Sheet | null} */ made) => {
            if (made && !running.finish(made)) setChildren(out, sheetView(made));
            if (!made || made.complete) return null;
            return unfinishedNote(() => sheet.run("/compare", { ...made.asked, folder: made.folder }));
        },
    });
    const card = stepCard(4, t("Choose the best"), note(aboutSheet()), sheet.element, out);
    card.hidden = true;
    const train = new JobView({
        kinds: ["train"],
        memory: "start",
        live: showProgress,
        result: (/** @type {TrainResult | null} */ run) => {
            if (run && run.sheet) {
                card.hidden = false;
                showingErrors(() => sheet.attach(String(run.sheet)))();
            }
            return run && !run.stopped ? [note(t("Done."), "good"), folded(run)] : finishedRun(run);
        },
        stops: runStops(),
        actions: runActions(),
    });
    const start = (/** @type {unknown} */ request) => {
        if (!train.isBusy()) {
            card.hidden = true;
            running.clear();
            setChildren(out);
        }
        return train.run("/train", request);
    };
    return { train, card, start };
}
