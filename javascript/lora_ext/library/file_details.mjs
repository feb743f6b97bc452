// Everything about one LoRA file: what it is, what it changes, how it was trained, its metadata.
import { api, post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { formatBytes } from "../core/format.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { hasPanel, showPanel } from "../core/panels.mjs";
import { t } from "../core/strings.mjs";
import { button, card, facts, note, buttonRow, stack, summary, table, textInput } from "../controls/basic.mjs";
import { trainingCurves } from "./training_curves.mjs";
import { blockBars } from "./block_bars.mjs";
import { metadataEditor } from "./file_editor.mjs";
import { datasetTable, namedEntries, tagFrequency } from "./file_metadata.mjs";
import { insertButtons, notesCard } from "./file_notes.mjs";
import { filePicture } from "./file_picture.mjs";
import { familyName } from "./lora_row.mjs";
import { saidNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").LoraFileDetails} LoraFile */
/**
 * @typedef {object} Changes what the list of files does after a change
 * @property {(name: string) => Promise<void>} renamed
 * @property {() => void} saved
 * @property {() => void} pictureChanged
 */

const MOST_TAGS = 300;

/** @param {LoraFile} file */
export const damageNote = (file) =>
    file.not_finite ? note(t("This file is damaged: it contains numbers that are not finite."), "bad") : null;

/** @param {LoraFile} file */
const isOdd = (file) => Boolean(file.other) || Object.keys(file.damaged).length > 0;

/** Its warnings, where the file is no LoRA for this program or damaged. @param {LoraFile} file */
export const oddityNotes = (file) => (isOdd(file) ? file.warnings.map((line) => saidNote(line, "bad")) : null);

/** @param {LoraFile} file @param {number} most how many ranks are named */
const rankText = (file, most) => Object.keys(file.ranks).slice(0, most).join(", ");

/**
 * The first facts of a file.
 * @param {LoraFile} file
 * @param {number} mostRanks
 * @returns {[string, string | number][]}
 */
export const basicFacts = (file, mostRanks) => [
    [t("kind"), file.variant],
    [t("base"), familyName(file.family)],
    [t("rank"), rankText(file, mostRanks)],
    [t("layers"), file.layers],
];

/** @param {LoraFile} file @param {Changes} changes */
function aboutCard(file, changes) {
    const tip = t("The new name, with a folder before it if you like; thumbnails are renamed too");
    const name = textInput(file.name, null, { "aria-label": t("Rename"), title: tip });
    const rename = showingErrors(async () => {
        const renamed = await post("/rename", { name: file.name, to: name.value.trim() });
        toast(t("Renamed"));
        await changes.renamed(renamed.name);
    });
    const compare = hasPanel("compare")
        ? button(t("Compare"), () => showPanel("compare", file.name), { tip: t("Draw a sheet with it") })
        : null;
    return card(
        file.title,
        buttonRow(
            insertButtons(file),
            button(t("Set block weights"), () => showPanel("weights", file.name), {
                kind: "main",
                tip: t("Open it in the Weights panel"),
            }),
            compare,
            button(t("Resize"), () => showPanel("tools", "resize", { name: file.name }), { tip: t("Change its rank") }),
        ),
        facts([
            ...basicFacts(file, 4),
            [t("numbers"), Object.keys(file.dtypes).join(", ")],
            [t("size"), formatBytes(file.bytes)],
            [t("hash"), file.hash],
            [t("file"), file.path],
        ]),
        damageNote(file),
        file.warnings.map((line) => saidNote(line, isOdd(file) ? "bad" : "")),
        filePicture(file, changes.pictureChanged),
        h("div", { class: "lx-row" }, name, button(t("Rename"), rename, { tip })),
    );
}

/** @param {LoraFile} file */
function trainingCard(file) {
    const entries = namedEntries(file.metadata),
        tags = tagFrequency(file.metadata);
    const curves = stack();
    showingErrors(async () => {
        const { rows } = await api("/train/run", { query: { name: file.name } });
        if (rows.length) setChildren(curves, trainingCurves(rows));
    })();
    const tagTable = !tags.length
        ? null
        : h(
              "details",
              { open: tags.length < 40 },
              summary(t("Caption tags")),
              table([t("tag"), t("times")], tags.slice(0, MOST_TAGS)),
          );
    return card(
        t("Training"),
        entries.length ? facts(entries) : note(t("The file has no metadata.")),
        curves,
        datasetTable(file.metadata),
        tagTable,
    );
}

/**
 * @param {HTMLElement} place
 * @param {LoraFile} file
 * @param {Changes} changes
 */
export function showFile(place, file, changes) {
    const saved = (/** @type {LoraFile} */ newer) => {
        showFile(place, newer, changes);
        changes.saved();
    };
    setChildren(
        place,
        aboutCard(file, changes),
        notesCard(file, { marked: changes.saved, saved }),
        card(t("What it changes"), blockBars(file.blocks)),
        trainingCard(file),
        metadataEditor(file, saved),
    );
}
