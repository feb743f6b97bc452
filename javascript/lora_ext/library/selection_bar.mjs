// What can be done with the selected files, and undoing the last move.
import { api, post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, note, buttonRow, select } from "../controls/basic.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { confirmForm, convertForm, moveForm, movesTo, pictureForm, resizeForm, tagForm } from "./bulk_forms.mjs";
import { failedFiles } from "./failed_files.mjs";

/** @typedef {import("../api_types").FileMove} FileMove */
/** @typedef {import("../api_types").ChangedFiles} ChangedFiles */
/** @typedef {import("./selection.mjs").Selection} Selection */
/**
 * @typedef {object} ListOfFiles what the bar needs of the list
 * @property {() => Promise<string[]>} allNames the names of all files that match
 * @property {() => Promise<void>} reload
 * @property {() => { tags: string[], folders: string[] }} known
 */

/** Moving, and taking the last move back. @param {Selection} selection @param {ListOfFiles} list */
function mover(selection, list) {
    /** @type {FileMove[]} */
    let last = [];
    const out = h("div", { class: "lx-result", role: "status" });
    /** @param {{ name: string, to: string }[]} moves @param {boolean} isUndo */
    const move = async (moves, isUndo) => {
        if (!moves.length) return toast(t("They are there already"));
        const { moved, failed } = await post("/library/move", { moves });
        last = isUndo ? [] : moved;
        if (selection.isOn) selection.set(moved.map(({ to }) => to));
        const undoButton = button(t("Undo"), undo, { tip: t("Moves them back where they were (Ctrl+Z)") });
        const done = isUndo ? t("{0} files moved back", moved.length) : t("{0} files moved", moved.length);
        setChildren(out, buttonRow(note(done, "good"), last.length ? undoButton : null), failedFiles(failed));
        return list.reload();
    };
    const undo = showingErrors(() =>
        move(
            last.map(({ name, to }) => ({ name: to, to: name })),
            true,
        ),
    );
    return {
        out,
        canUndo: () => last.length > 0,
        undo,
        moveTo: (/** @type {string} */ folder) => move(movesTo([...selection.names], folder), false),
    };
}

/** @param {Selection} selection @param {ListOfFiles} list */
function marker(selection, list) {
    return showingErrors(async (/** @type {object} */ change) => {
        const names = [...selection.names];
        const { count } = await api("/library/marks", { method: "PUT", body: { names, ...change } });
        toast(t("{0} files marked", count));
        await list.reload();
    });
}

/** Buttons that mark the selected files at once. @param {(change: object) => Promise<void>} mark */
function markButtons(mark) {
    const rating = select([["", t("Rating")], "5", "4", "3", "2", "1", ["0", t("no rating")]], "", null, {
        "aria-label": t("Rating"),
        title: t("From 1 to 5"),
        onchange: () => {
            if (rating.value) mark({ rating: Number(rating.value) });
            rating.value = "";
        },
    });
    return [
        button("♥", () => mark({ favourite: true }), { tip: t("Favourites"), "aria-label": t("Favourites") }),
        button("♡", () => mark({ favourite: false }), { tip: t("No favourites"), "aria-label": t("No favourites") }),
        rating,
    ];
}

/**
 * Buttons that open a form below them, one at a time.
 * @param {HTMLElement} place
 * @param {[string, string, () => HTMLElement][]} forms text, tooltip, makes the form
 */
function formButtons(place, forms) {
    const buttons = forms.map(([text, tip, make]) => {
        const one = button(
            text,
            () => {
                const open = one.getAttribute("aria-expanded") === "true";
                for (const other of buttons) other.setAttribute("aria-expanded", "false");
                one.setAttribute("aria-expanded", String(!open));
                setChildren(place, open ? null : make());
                /** @type {HTMLElement | null} */ (place.querySelector("input, select, button"))?.focus();
            },
            { tip, "aria-expanded": false },
        );
        return one;
    });
    const opener = () => buttons.find((one) => one.getAttribute("aria-expanded") === "true");
    const close = () => {
        const open = opener();
        if (place.contains(document.activeElement)) open?.focus();
        open?.setAttribute("aria-expanded", "false");
        setChildren(place);
    };
    return { buttons, close, isOpen: () => Boolean(opener()) };
}

const jobView = () =>
    new JobView({
        kinds: ["delete", "strip"],
        result: (/** @type {ChangedFiles} */ { done, failed }, { kind }) => [
            note(
                kind === "delete" ? t("{0} files are in the bin", done.length) : t("{0} files done", done.length),
                "good",
            ),
            failedFiles(failed),
        ],
    });

/**
 * The first line: how many are selected, and selecting all or none.
 * @param {Selection} selection
 * @param {() => unknown} all
 */
function countLine(selection, all) {
    const count = h("b", { role: "status" });
    const line = buttonRow(
        count,
        button(t("All"), all, { kind: "quiet", tip: t("Select all files that match (Ctrl+A)") }),
        button(t("None"), () => selection.set([]), { kind: "quiet", tip: t("Select no file") }),
        button(t("Done"), () => selection.switch(false), { kind: "quiet", tip: t("End selecting") }),
    );
    return { line, count };
}

/** @param {Selection} selection @param {ListOfFiles} list */
export function selectionBar(selection, list) {
    const place = h("div", { class: "lx-result" });
    const { out, canUndo, undo, moveTo } = mover(selection, list);
    const mark = marker(selection, list);
    const job = jobView();
    const chosen = () => [...selection.names];
    const run = async (/** @type {"/library/delete" | "/library/strip"} */ path) => {
        const names = chosen();
        forms.close();
        if (await job.run(path, { names })) selection.set([]);
        await list.reload();
    };
    const deleteText = () => t("Move {0} files, and what lies beside them, to the system's bin?", selection.names.size);
    const stripText = () => t("Remove the metadata of {0} files? This cannot be undone.", selection.names.size);
    const forms = formButtons(place, [
        [t("Tag…"), t("Add or remove a tag"), () => tagForm(list.known().tags, mark)],
        [t("Move…"), t("Into another folder"), () => moveForm(list.known().folders, moveTo)],
        [t("Picture…"), t("The same picture for all"), () => pictureForm(chosen(), out, () => void list.reload())],
        [t("Resize…"), t("Change their rank"), () => resizeForm(chosen(), out)],
        [t("Convert…"), t("Write them in another key format"), () => convertForm(chosen(), out)],
        [t("Metadata…"), t("Remove it"), () => confirmForm(stripText(), t("Remove"), () => run("/library/strip"))],
        [t("Delete…"), t("Into the bin"), () => confirmForm(deleteText(), t("Delete"), () => run("/library/delete"))],
    ]);
    const all = showingErrors(async () => selection.set(await list.allNames()));
    const actions = buttonRow(markButtons(mark), forms.buttons);
    const { line, count } = countLine(selection, all);
    const bar = h("div", { class: "lx-selection", hidden: true }, line, actions, place);
    const show = () => {
        bar.hidden = !selection.isOn;
        actions.hidden = !selection.names.size;
        count.textContent = t("{0} selected", selection.names.size);
        forms.close(); // a form belongs to the files that were selected when it was opened
    };
    return { element: h("div", { class: "lx-bulk" }, bar, out, job.element), canUndo, undo, all, job, show, forms };
}
