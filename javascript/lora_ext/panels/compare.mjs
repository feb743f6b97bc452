// The Compare panel: a sheet of pictures over epochs, weights, blocks, ranks or seeds; a click takes the tag.
import { api } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors } from "../core/messages.mjs";
import { registerPanel, showPanel } from "../core/panels.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { runningSheet } from "../compare/running_sheet.mjs";
import { sheetHistory, unfinishedNote } from "../compare/sheet_history.mjs";
import { sheetForm } from "../compare/sheet_form.mjs";
import { sheetView } from "../compare/sheet_view.mjs";
import { button, card, columns, note, stack, summary } from "../controls/basic.mjs";
import { registerJobOpener } from "../jobs/job_openers.mjs";
import { JobView } from "../jobs/job_view.mjs";

/** @typedef {import("../api_types").SheetDetails} Sheet */
/** @typedef {import("../jobs/job_openers.mjs").JobName} JobName */
/** @typedef {ReturnType<typeof sheetForm>} SheetForm */
/** @typedef {Record<string, any>} Settings */

/** @type {{ form: SheetForm, view: JobView } | undefined} */
let parts;
/** @type {JobName | undefined} a job that is shown when the panel has been built */
let pending;
/** @type {string | undefined} a file that is chosen when the panel has been built */
let wanted;

/**
 * The panel's two columns: the form and earlier sheets, and the sheet.
 * @param {SheetForm} form
 * @param {() => void} draw
 * @param {HTMLElement} earlier
 * @param {HTMLElement[]} result
 */
function panelColumns(form, draw, earlier, result) {
    const start = button(t("Draw sheet"), draw, { kind: "main", tip: t("Draws every combination") });
    return columns(
        "compare",
        [
            card(t("Sheet"), form.elements, h("div", { class: "lx-row" }, start), form.settings),
            h("details", { class: "lx-card" }, summary(t("Earlier sheets")), earlier),
        ],
        [card(t("Result"), result)],
    );
}

/** @param {HTMLElement} panel @param {SheetForm} form */
function fill(panel, form) {
    const out = stack(note(t("Draw a sheet, or open an earlier one.")));
    const running = runningSheet();
    const view = new JobView({
        kinds: ["compare"],
        live: running.show,
        result: (/** @type {Sheet | null} */ sheet) => {
            if (sheet && !running.finish(sheet)) setChildren(out, sheetView(sheet));
            history.refresh();
            return sheet && !sheet.complete ? unfinishedNote(() => resume(sheet)) : null;
        },
    });
    const draw = showingErrors((/** @type {Settings} */ more) => {
        const request = /** @type {Settings} */ ({ ...form.get(), ...more });
        const { x, y, z } = request;
        store("compare", { ...request, prompt: form.ownPrompt(), axes: { x, y, z } });
        if (!view.isBusy()) {
            running.clear();
            setChildren(out);
        }
        return view.run("/compare", request);
    });
    const resume = (/** @type {Sheet} */ { asked, folder }) => draw({ ...asked, folder });
    const history = sheetHistory((sheet) => {
        if (!running.isFilling()) running.clear();
        form.take(sheet.asked);
        setChildren(out, sheet.complete ? null : unfinishedNote(() => resume(sheet)), sheetView(sheet));
    });
    setChildren(
        panel,
        panelColumns(form, () => draw({}), history.element, [view.element, out]),
    );
    history.refresh();
    parts = { form, view };
    if (pending) view.attach(pending.id);
    else view.resume();
    form.picker.chooseFirst(form.checkpoint());
}

registerJobOpener(["compare"], (job) => {
    showPanel("compare");
    if (parts) parts.view.attach(job.id);
    else pending = job;
});
registerPanel({
    name: "compare",
    title: () => t("Compare"),
    tip: () => t("Sheets of pictures: which file and weight to keep"),
    order: 40,
    build: showingErrors(async (/** @type {HTMLElement} */ panel) => {
        const { kinds } = await api("/compare/axes");
        const { datasets } = await api("/train/form");
        const stored = loadStored("compare", /** @type {Settings} */ ({}));
        fill(panel, sheetForm(kinds, datasets, stored));
        if (wanted && parts) parts.form.picker.choose(wanted);
    }),
    open: (/** @type {string | undefined} */ name) => {
        wanted = name;
        if (name && parts) parts.form.picker.choose(name);
    },
});
