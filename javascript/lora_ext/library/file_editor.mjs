// Editing a file's metadata.
import { post } from "../core/api.mjs";
import { h } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, card, field, note, summary, textInput } from "../controls/basic.mjs";
import { EDITABLE } from "./file_metadata.mjs";

/** @typedef {import("../api_types").LoraFileDetails} LoraFile */

/**
 * What was written and removed, as far as it changes the metadata.
 * @param {Record<string, string>} metadata
 * @param {Record<string, string>} written
 * @param {Iterable<string>} removed
 */
export function metadataChanges(metadata, written, removed) {
    const changes = Object.entries(written).filter(
        ([name, value]) => value !== (metadata[name] || "") && !(value === "" && !(name in metadata)),
    );
    return { put: Object.fromEntries(changes), remove: [...removed].filter((name) => name in metadata) };
}

/**
 * Lines that edit entries.
 * @param {Record<string, string>} written receives what is typed
 * @param {Set<string>} removed receives the entries that are removed
 */
function entryLines(written, removed) {
    /** @param {string} name @param {string} value @param {boolean} removable */
    return (name, value, removable) => {
        const rows = Math.min(6, Math.ceil((value.length + 1) / 60));
        const box = h("textarea", {
            class: "lx-input lx-text",
            rows,
            spellcheck: "false",
            value,
            oninput: () => (written[name] = box.value),
        });
        const tip = t("Remove this entry");
        const remove = () => {
            removed.add(name);
            delete written[name];
            line.remove();
        };
        const line = h(
            "div",
            { class: "lx-edit-row" },
            field(name, box, t("The value of this entry in the file")),
            removable ? button("×", remove, { kind: "quiet", tip, "aria-label": tip }) : null,
        );
        return line;
    };
}

/** A field for a new entry's name. @param {(name: string) => void} onadd */
function newEntryRow(onadd) {
    const label = t("a new entry's name");
    const input = textInput("", null, { placeholder: label, "aria-label": label, title: t("Add an entry") });
    const add = () => {
        const name = input.value.trim();
        if (!name) return input.focus();
        input.value = "";
        return onadd(name);
    };
    return h("div", { class: "lx-row" }, input, button(t("Add"), add, { tip: t("Add an entry") }));
}

/**
 * All entries that are not always shown.
 * @param {Record<string, string>} metadata
 * @param {ReturnType<typeof entryLines>} line
 */
function otherEntries(metadata, line) {
    const names = Object.keys(metadata)
        .filter((name) => !EDITABLE.includes(name))
        .sort();
    const box = h("details", {}, summary(t("All {0} entries", names.length)));
    box.addEventListener("toggle", () => {
        // made when they are first looked at: there may be very many
        if (!box.open || box.childNodes.length > 1) return;
        const lines = names.map((name) => line(name, metadata[name], true));
        box.append(h("div", { class: "lx-edit" }, lines));
    });
    return box;
}

/**
 * @param {LoraFile} file
 * @param {(file: LoraFile) => void} onsave called with the file as it is then
 */
export function metadataEditor(file, onsave) {
    /** @type {Record<string, string>} */
    const written = {};
    /** @type {Set<string>} */
    const removed = new Set();
    const line = entryLines(written, removed);
    const lines = h(
        "div",
        { class: "lx-edit" },
        EDITABLE.map((name) => line(name, file.metadata[name] || "", false)),
    );
    const save = showingErrors(async () => {
        const { put, remove } = metadataChanges(file.metadata, written, removed);
        if (!Object.keys(put).length && !remove.length) return toast(t("Nothing was changed"));
        const saved = await post("/metadata", { name: file.name, put, remove });
        toast(t("Saved"));
        return onsave(saved);
    });
    return card(
        t("Edit"),
        note(t("Only the text in the file's header changes; the weights stay bit-identical.")),
        lines,
        otherEntries(file.metadata, line),
        newEntryRow((name) => {
            lines.prepend(line(name, "", true));
            written[name] = "";
        }),
        h(
            "div",
            { class: "lx-row" },
            button(t("Save"), save, { kind: "main", tip: t("Write the entries into the file") }),
        ),
    );
}
