// Block-weight presets: a list, and what can be done with the user's own.
import { api, post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, select, textInput } from "../controls/basic.mjs";
import { deletedToast } from "../controls/undo.mjs";
import { pageWords } from "../core/server_sentences.mjs";

/** @typedef {import("../api_types").PresetRow} Preset */
/** @typedef {import("../api_types").PresetsAnswer} Presets */
/**
 * @typedef {object} Weights what the list shows and saves
 * @property {() => string} text the weights as text; throws FieldError where they cannot be read
 * @property {(name: string) => void} use called when a preset is chosen from the list
 * @property {(name: string) => void} named called when the weights got this name, or lost theirs: ""
 */

/** @param {Preset[]} presets */
function presetOptions(presets) {
    const groups = [
        { label: t("built in"), rows: presets.filter(({ own, builtin }) => builtin && !own) },
        { label: t("mine"), rows: presets.filter(({ own, builtin }) => own || !builtin) },
    ];
    const option = (/** @type {Preset} */ { name }) => h("option", { value: name }, name);
    return [
        h("option", { value: "" }, t("(own weights)")),
        groups.map(({ label, rows }) => (rows.length ? h("optgroup", { label }, rows.map(option)) : null)),
    ];
}

/** Reads presets from a text file that the user chooses. @param {(found: Presets) => void} show */
function importInput(show) {
    const read = showingErrors(async () => {
        const file = input.files && input.files[0];
        if (!file) return;
        const found = await post("/presets/import", { text: await file.text() });
        show(found);
        toast(t("{0} presets read", found.taken.length));
        input.value = "";
    });
    const input = h("input", { type: "file", accept: ".txt,text/plain", hidden: true, onchange: read });
    return input;
}

/** Saves the user's presets as a text file. */
async function exportPresets() {
    const { text } = await api("/presets/export");
    const href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    h("a", { href, download: "presets.txt" }).click();
    URL.revokeObjectURL(href);
}

export class PresetList {
    /** @type {Preset[]} */
    presets = [];
    /** The preset that is marked; "" for none. */
    marked = "";

    /** @param {Weights} weights */
    constructor(weights) {
        this.weights = weights;
        const label = t("Name of a new preset");
        this.list = select([["", t("(own weights)")]], "", (name) => name && weights.use(name), {
            title: t("Weights that were saved under a name"),
            "aria-label": t("Presets"),
        });
        this.input = textInput("", null, {
            placeholder: label,
            "aria-label": label,
            title: t("The preset's name, here and in tags"),
        });
        this.elements = [this.list, this.buttons()];
    }

    buttons() {
        const upload = importInput((found) => this.show(found));
        const quiet = (/** @type {string} */ text, /** @type {() => unknown} */ act, /** @type {string} */ tip) =>
            button(text, showingErrors(act), { kind: "quiet", tip });
        return [
            buttonRow(
                this.input,
                button(
                    t("Save"),
                    showingErrors(() => this.save()),
                    { tip: t("Save the weights as they are now under this name") },
                ),
            ),
            buttonRow(
                quiet(t("Rename"), () => this.rename(), t("Give the chosen preset the name written above")),
                quiet(t("Delete"), () => this.remove(), t("Delete the chosen preset")),
                quiet(t("Import"), () => upload.click(), t("Read presets from a text file with lines NAME:1,0,1,…")),
                quiet(t("Export"), exportPresets, t("Your presets as a text file")),
                upload,
            ),
        ];
    }

    load = showingErrors(async () => this.show(await api("/presets")));

    /** @param {Presets} found */
    show(found) {
        this.presets = found.presets;
        for (const line of found.notes) toast(pageWords(line), "bad");
        setChildren(this.list, presetOptions(this.presets));
        this.list.value = this.marked;
    }

    /** Marks a preset in the list. @param {string} name "" for none */
    mark(name) {
        this.marked = name;
        this.list.value = name;
    }

    /** The chosen preset, where it is the user's own. */
    own() {
        return this.presets.find((preset) => preset.own && preset.name === this.list.value);
    }

    /** @param {string} name */
    named(name) {
        this.input.value = "";
        this.weights.named(name);
    }

    async save() {
        const values = this.weights.text();
        const name = this.input.value.trim() || (this.own() ? this.list.value : "");
        if (!name) return this.input.focus();
        await this.put({ name, values });
        this.named(name);
        return toast(t("Saved as {0}", name));
    }

    /** @param {{ name: string, values: string, place?: number | null }} body place: where it is put back */
    async put(body) {
        this.show(await api("/presets", { method: "PUT", body }));
    }

    async rename() {
        const preset = this.own(),
            to = this.input.value.trim();
        if (!preset || !to) return toast(t("Choose one of your presets and write its new name"), "bad");
        this.show(await post("/presets/rename", { name: preset.name, to }));
        return this.named(to);
    }

    async remove() {
        const preset = this.own();
        if (!preset) return toast(t("Choose one of your presets; the built-in ones stay"), "bad");
        this.show(await api("/presets", { method: "DELETE", query: { name: preset.name } }));
        this.weights.named("");
        const { values, place } = preset;
        return deletedToast(preset.name, () => this.put({ name: preset.name, values, place }));
    }
}
