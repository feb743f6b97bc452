// Files that hold the same network, side by side: what each is to the best of them, and which go to the bin.
import { h, setChildren } from "../core/elements.mjs";
import { emit } from "../core/events.mjs";
import { formatPercent } from "../core/format.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, card, checkbox, note } from "../controls/basic.mjs";
import { JobView } from "../jobs/job_view.mjs";
import { failedFiles } from "./failed_files.mjs";

/** @typedef {import("../api_types").DuplicateRow} DuplicateRow */
/** @typedef {import("../api_types").DuplicatesResult} DuplicatesResult */
/** @typedef {import("../api_types").ChangedFiles} ChangedFiles */

/** What a file is to the first of its group. @param {DuplicateRow} row */
function relationText({ relation }) {
    const { kind, share, dtype } = relation;
    /** @type {Record<string, () => string>} */
    const texts = {
        kept: () => t("the highest rank and precision"),
        identical: () => t("identical weights"),
        same: () => t("the same weights in other keys or factors"),
        precision: () => t("the same weights in {0}", dtype),
        resize: () => t("a lower rank: {0} of the change", formatPercent(share)),
    };
    return kind === "precision" ? texts[kind]() : `${texts[kind]()} · ${dtype}`;
}

/** Where the files are marked that are to be deleted; names of files. */
class Unwanted {
    /** @type {Map<string, HTMLInputElement>} */
    boxes = new Map();

    /** @param {() => void} onchange */
    constructor(onchange) {
        this.onchange = onchange;
    }

    names() {
        return [...this.boxes].filter(([, box]) => box.checked).map(([name]) => name);
    }

    /** @param {DuplicateRow[]} rows @param {boolean} on */
    mark(rows, on) {
        for (const { name } of rows) {
            const box = this.boxes.get(name);
            if (box && !box.disabled) box.checked = on;
        }
        this.onchange();
    }

    /** The box of a file. @param {DuplicateRow} row */
    boxOf({ name, removable }) {
        const tip = removable
            ? t("Marks the file; nothing is deleted before the button below is pressed")
            : t("Part of this installation: it stays");
        const made = checkbox(t("Delete"), false, this.onchange, tip);
        made.box.disabled = !removable;
        made.box.setAttribute("aria-label", t("Delete {0}", name));
        this.boxes.set(name, made.box);
        return made;
    }
}

/**
 * @param {DuplicateRow[]} rows
 * @param {Unwanted} unwanted
 * @param {(row: DuplicateRow) => HTMLElement} cardOf
 */
function groupCard(rows, unwanted, cardOf) {
    const line = (/** @type {DuplicateRow} */ row) =>
        h(
            "div",
            { class: "lx-duplicate" },
            cardOf(row),
            h("span", { class: "lx-hint" }, row.name === row.title ? null : [row.name, h("br", {})], relationText(row)),
            unwanted.boxOf(row),
        );
    const keepFirst = button(t("Keep the first alone"), () => unwanted.mark(rows.slice(1), true), {
        kind: "quiet",
        tip: t("Marks all others of this group"),
    });
    const keepAll = button(t("Keep all"), () => unwanted.mark(rows, false), {
        kind: "quiet",
        tip: t("Marks none of this group"),
    });
    return card(null, note(t("the same network:")), rows.map(line), buttonRow(keepFirst, keepAll));
}

/** A job that deletes files. */
const deletingJob = () =>
    new JobView({
        result: (/** @type {ChangedFiles} */ { done, failed }) => [
            note(t("{0} files are in the bin", done.length), "good"),
            failedFiles(failed),
        ],
    });

/**
 * The groups, and the button that deletes what is marked in them.
 * @param {DuplicateRow[][]} groups
 * @param {(row: DuplicateRow) => HTMLElement} cardOf
 * @param {HTMLElement} close
 */
function groupsWithButton(groups, cardOf, close) {
    const place = h("div", { class: "lx-result" });
    const job = deletingJob();
    const deleteMarked = async () => {
        const ended = await job.run("/library/delete", { names: unwanted.names() });
        const gone = new Set(/** @type {any} */ (ended)?.result?.done || []);
        if (!gone.size) return; // what was marked stays marked
        groups = groups.map((rows) => rows.filter(({ name }) => !gone.has(name))).filter((rows) => rows.length > 1);
        paint();
        emit("library");
    };
    const remove = button("", deleteMarked, { kind: "main", tip: t("They can be taken back from the system's bin") });
    const unwanted = new Unwanted(() => {
        const count = unwanted.names().length;
        remove.textContent = t("Move {0} files to the bin", count);
        remove.disabled = !count;
    });
    const paint = () => {
        unwanted.boxes.clear();
        setChildren(
            place,
            groups.map((rows) => groupCard(rows, unwanted, cardOf)),
        );
        unwanted.onchange();
        remove.hidden = !groups.length;
    };
    paint();
    return [place, buttonRow(remove, close), job.element];
}

/**
 * What a search found.
 * @param {DuplicatesResult} result
 * @param {(row: DuplicateRow) => HTMLElement} cardOf a file as the list shows it
 * @param {() => void} onclose takes the list away
 */
export function duplicateGroups({ groups, files, by_content_alone: alone }, cardOf, onclose) {
    const text = groups.length
        ? t("{0} groups of files that hold the same network, found among {1} files", groups.length, files)
        : t("No two of {0} files hold the same network.", files);
    const unread = t("{0} files were compared by their bytes alone: unreadable, or tied to a base model.", alone);
    const close = button(t("Close"), onclose, { kind: "quiet", tip: t("Takes the list of duplicates away") });
    return [
        note(text, "good"),
        alone ? note(unread) : null,
        ...(groups.length ? groupsWithButton(groups, cardOf, close) : [buttonRow(close)]),
    ];
}
