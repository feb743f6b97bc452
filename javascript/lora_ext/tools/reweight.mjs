// Block weights written into a copy of a file, for programs without them.
import { api } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { field, grid, note, select } from "../controls/basic.mjs";
import { strengthField } from "../controls/strength_field.mjs";
import { LoraPicker } from "../library/lora_picker.mjs";
import { toolForm } from "./tool_form.mjs";

/** @typedef {import("../api_types").PresetRow} Preset */
/** @typedef {{ name: string, lbw: string | null, te: number, unet: number }} TagWeights the Weights panel's */

/** Block weights as text, or a preset chosen from a list. */
function blockWeightsFields() {
    /** @type {Preset[]} */
    let presets = [];
    const text = h("textarea", {
        class: "lx-input lx-text",
        rows: 2,
        spellcheck: "false",
        placeholder: t("a preset's name, or numbers with commas"),
    });
    const list = select([["", t("the same for all blocks")]], "", (name) => (text.value = name));
    const showPreset = () => {
        const name = text.value.trim();
        list.value = presets.some((preset) => preset.name === name) ? name : "";
    };
    text.addEventListener("input", showPreset);
    showingErrors(async () => {
        ({ presets } = await api("/presets"));
        const fixed = presets.filter(({ values }) => !/[RUX]/i.test(values)); // no random values can be written
        setChildren(
            list,
            h("option", { value: "" }, t("(own weights)")),
            fixed.map(({ name }) => h("option", { value: name }, name)),
        );
        showPreset();
    })();
    return {
        element: grid(
            field(t("Presets"), list, t("Weights that were saved under a name")),
            field(t("Block weights as text"), text, t("A preset's name, or 12, 17, 20, 25 or 26 numbers")),
        ),
        get: () => text.value.trim(),
        /** @param {string} weights */
        set(weights) {
            text.value = weights;
            showPreset();
        },
    };
}

/** @param {HTMLElement} place */
export function buildReweight(place) {
    const blocks = blockWeightsFields();
    const te = strengthField(t("Text encoder"), t("Text-encoder strength"));
    const unet = strengthField(t("U-Net"), t("U-Net strength"));
    const picker = new LoraPicker({ onpick: ({ title }) => form.suggestName(`${title}-blocks`) });
    const form = toolForm({
        verb: "reweight",
        label: t("Write"),
        tip: t("Write the weighted copy"),
        request: () => {
            if (!picker.value) return toast(t("Choose a file"), "bad");
            return { name: picker.value.name, lbw: blocks.get(), te: te.get(), unet: unet.get() };
        },
    });
    form.show(
        place,
        t("Write block weights"),
        note(
            t(
                "A copy that has at weight 1 the effect of the file with these weights, for programs " +
                    "without block weights and for sharing. Blocks at 0 are left out, so it is smaller.",
            ),
        ),
        picker.element,
        blocks.element,
        grid(unet, te),
    );
    return {
        view: form.view,
        /** @param {TagWeights} weights */
        take({ name, lbw, te: textEncoder, unet: strength }) {
            picker.choose(name);
            blocks.set(lbw || "");
            te.set(textEncoder);
            unet.set(strength);
        },
    };
}
