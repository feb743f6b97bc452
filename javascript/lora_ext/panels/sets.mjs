// The Sets panel: several LoRA files with their weights, blocks, curves and regions under a name.
import { api, post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { registerPanel } from "../core/panels.mjs";
import { t } from "../core/strings.mjs";
import { button, card, columns, field, note, buttonRow, textArea, textInput } from "../controls/basic.mjs";
import { pictureUpload } from "../library/file_picture.mjs";
import { insertSet, promptButtons, promptTexts } from "../prompts/prompt_fields.mjs";
import { errorNote } from "../controls/error_note.mjs";
import { deletedToast } from "../controls/undo.mjs";

/** @typedef {import("../api_types").LoraSetRow} LoraSet */

/** Gives the browser a text as a file. @param {string} name @param {string} text */
function download(name, text) {
    const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    h("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** Buttons that take tags from a prompt or a picture. @param {(source: object) => Promise<void>} read */
function sourceButtons(read) {
    const upload = pictureUpload(read);
    const fromPrompts = promptTexts().map(([label, get]) =>
        button(label, () => read({ text: get() }), { tip: t("Takes the tags of the prompt") }),
    );
    const tip = t("Takes the tags of a picture's infotext; files that have another name here are found by their hash");
    const picture = button(t("From a picture"), () => upload.click(), { tip });
    return buttonRow(fromPrompts, picture, upload);
}

/** @param {{ name: string, text: string, words: string, negative: string, may_replace?: boolean }} body */
const saveSet = (body) => api("/sets", { method: "PUT", body });

/** The form that saves a set. @param {() => void} onsave */
function setForm(onsave) {
    const name = textInput("", null, { maxlength: 64 });
    const tags = textArea(5, "", { placeholder: "<lora:one:0.8> <lora:two:0.5:lbw=FACE>", class: "lx-input lx-text" });
    const words = textArea(2, ""),
        negative = textArea(1, "");
    const read = showingErrors(async (/** @type {object} */ source) => {
        tags.value = (await post("/sets/read", source)).text;
        name.focus();
    });
    const save = showingErrors(async () => {
        await saveSet({ name: name.value, text: tags.value, words: words.value, negative: negative.value });
        toast(t("Saved as {0}", name.value.trim()));
        onsave();
    });
    const element = card(
        t("A set"),
        sourceButtons(read),
        field(t("Tags"), tags, t("With their weights, blocks, curves and regions")),
        field(t("Words for the prompt"), words, t("Written into the prompt with the tags")),
        field(t("Negative text"), negative, t("Written into the negative prompt with the tags")),
        field(t("Name"), name, t("The set is saved under it")),
        buttonRow(button(t("Save"), save, { kind: "main", tip: t("A set of this name is replaced") })),
    );
    return {
        element,
        /** Shows a set, to be changed. */
        edit(/** @type {LoraSet} */ one) {
            Object.assign(name, { value: one.name });
            tags.value = one.tags.join("\n");
            words.value = one.words;
            negative.value = one.negative;
            name.focus();
        },
    };
}

/**
 * @param {LoraSet} one
 * @param {(set: LoraSet) => void} edit
 * @param {(set: LoraSet) => void} remove
 */
function setCard(one, edit, remove) {
    const save = showingErrors(async () =>
        download(`${one.name}.json`, (await api("/sets/export", { query: { name: one.name } })).text),
    );
    return card(
        one.name,
        h("code", { class: "lx-tag" }, one.tags.join("\n")),
        one.words ? note(one.words) : null,
        one.missing.length ? note(t("Not in your library: {0}", one.missing.join(", ")), "bad") : null,
        buttonRow(
            promptButtons((prompt) => insertSet(prompt, one.name), "", t("Writes all its tags and words")),
            button(t("Edit"), () => edit(one), { kind: "quiet", tip: t("Change it in the form") }),
            button(t("Export"), save, { kind: "quiet", tip: t("As a file, to keep or to give to others") }),
            button(t("Delete"), () => remove(one), { kind: "quiet", tip: t("Delete this set") }),
        ),
    );
}

/** A button that imports a file. @param {(sets: LoraSet[]) => void} show */
function importButton(show) {
    const upload = h("input", {
        type: "file",
        accept: "application/json,.json",
        hidden: true,
        onchange: showingErrors(async () => {
            const file = upload.files && upload.files[0];
            if (!file) return;
            const text = await file.text();
            upload.value = "";
            show((await post("/sets/import", { text })).sets);
        }),
    });
    return [button(t("Import"), () => upload.click(), { tip: t("A file that was exported") }), upload];
}

/** @type {() => Promise<void>} */
let load;

/** @param {HTMLElement} panel */
function build(panel) {
    const list = h("div", { class: "lx-result" });
    const show = (/** @type {LoraSet[]} */ sets) => {
        const cards = sets.map((one) => setCard(one, form.edit, remove));
        setChildren(list, cards.length ? cards : note(t("No set was saved yet.")));
    };
    const remove = showingErrors(async (/** @type {LoraSet} */ { name, tags, words, negative }) => {
        show((await api("/sets", { method: "DELETE", query: { name } })).sets);
        const body = { name, text: tags.join("\n"), words, negative, may_replace: false };
        deletedToast(name, async () => show((await saveSet(body)).sets));
    });
    load = () =>
        api("/sets").then(
            ({ sets }) => show(sets),
            (error) => void setChildren(list, errorNote(error)),
        );
    const form = setForm(load);
    setChildren(panel, columns("even", [form.element], [card(t("Sets"), buttonRow(importButton(show))), list]));
}

registerPanel({
    name: "sets",
    title: () => t("Sets"),
    tip: () => t("Several LoRA files under a name: save, insert, export"),
    order: 62,
    build,
    open: () => load(),
});
