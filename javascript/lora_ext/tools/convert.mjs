// Split and convert: a DyLoRA into its ranks, a file into another key format or kind.
import { toast } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { checkbox, field, grid, note, select } from "../controls/basic.mjs";
import { LoraPicker } from "../library/lora_picker.mjs";
import { optionalRank, toolForm } from "./tool_form.mjs";

/** @param {HTMLElement} place */
export function buildSplit(place) {
    const unit = optionalRank(t("Unit"), t("The step between ranks; empty: as stored in the file"), {
        placeholder: t("from the file"),
    });
    const alpha = select(
        [
            ["", t("as stored in the file")],
            ["trained", t("as trained")],
            ["keep", t("unchanged, as kohya's script does")],
        ],
        "",
    );
    const picker = new LoraPicker({ onpick: ({ title }) => form.suggestName(title) });
    const form = toolForm({
        verb: "split",
        label: t("Split"),
        tip: t("Write one file for each rank"),
        request: () => {
            if (!picker.value) return toast(t("Choose a file"), "bad");
            return { name: picker.value.name, unit: unit.get(), alpha: alpha.value || null };
        },
    });
    form.show(
        place,
        t("Split"),
        note(t("A DyLoRA holds a LoRA of every rank: here each becomes a file, so that they can be compared.")),
        picker.element,
        grid(unit, field(t("alpha"), alpha, t("Alpha of each new file: the update is scaled by alpha / rank"))),
    );
    return { view: form.view };
}

/** Whether layers that the program cannot read become LoRA, and the base model that some kinds need for it. */
function bakeFields() {
    const base = select([["", t("none")], ...page.choices.checkpoints.filter(Boolean)], "");
    const tip = t("Needed by kinds whose change depends on its weights: DoRA, OFT, IA3, GLoRA");
    const baseField = field(t("Base model"), base, tip);
    baseField.hidden = true;
    const bake = checkbox(
        t("make LoRA of what the program cannot read"),
        false,
        (on) => (baseField.hidden = !on),
        t("The nearest LoRA of these layers, of the rank above or of the file's highest; the report tells the loss"),
    );
    return { bake, baseField, get: () => (bake.box.checked ? { bake: true, base: base.value } : {}) };
}

/** @param {HTMLElement} place */
export function buildConvert(place) {
    const to = select(
        [
            ["kohya", t("kohya: web UIs, ComfyUI")],
            ["diffusers", t("diffusers (PEFT)")],
            ["comfyui", t("ComfyUI's own names")],
        ],
        "kohya",
    );
    const rank = optionalRank(
        t("Other kinds become LoRA of rank"),
        t("LoHa, LoKr and full layers become the best LoRA of this rank; empty leaves them"),
        { placeholder: t("leave them") },
    );
    const baking = bakeFields();
    const picker = new LoraPicker({ onpick: ({ title }) => form.suggestName(`${title}-${to.value}`) });
    const form = toolForm({
        verb: "convert",
        label: t("Convert"),
        tip: t("Write the file in the other key format"),
        request: () => {
            if (!picker.value) return toast(t("Choose a file"), "bad");
            return { name: picker.value.name, to: to.value, rank: rank.get(), ...baking.get() };
        },
    });
    form.show(
        place,
        t("Convert"),
        note(t("Between key formats of different programs, from .pt to .safetensors, from other kinds to" + " LoRA.")),
        picker.element,
        grid(field(t("Key format"), to, t("Which programs will read it")), rank, baking.baseField),
        baking.bake,
    );
    return { view: form.view };
}
