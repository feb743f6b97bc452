// Extract: the difference of two checkpoints as a LoRA.
import { toast } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { field, grid, note, select } from "../controls/basic.mjs";
import { numberField } from "../controls/number_field.mjs";
import { rankRuleField } from "./rank_rule.mjs";
import { optionalRank, toolForm } from "./tool_form.mjs";

/** The two models of which the difference is taken. */
function modelFields() {
    const models = page.choices.checkpoints.filter(Boolean);
    const modelSelect = () => select(models.length ? models : [["", t("no checkpoint is there")]], models[0] || "");
    const original = modelSelect(),
        tuned = modelSelect();
    const element = grid(
        field(t("Original"), original, t("The model before fine-tuning")),
        field(t("Tuned"), tuned, t("The fine-tuned model")),
    );
    return { element, original, tuned };
}

/** A file's name without its folders and its ending. @param {string} path */
export const stem = (path) => path.replace(/.*\/|\.[^.]*$/g, "");

/** @param {HTMLElement} place */
export function buildExtract(place) {
    const { element: models, original, tuned } = modelFields();
    const rule = rankRuleField(() => {}, 256);
    const conv = optionalRank(t("Rank of 3×3 layers"), t("Empty: resnets, downsamplers and upsamplers are left out"), {
        placeholder: t("leave them out"),
        high: 1024,
    });
    const least = numberField(t("Text encoder: least difference"), 0.01, {
        low: 0,
        high: 1e9,
        usual: 0.01,
        tip: t("The text encoder is left out if no weight of it differs by more than this"),
    });
    const form = toolForm({
        verb: "extract",
        label: t("Extract"),
        tip: t("Write the difference of the two models as a LoRA"),
        request: () => {
            if (!original.value) return toast(t("Put checkpoints into the checkpoint folder first"), "bad");
            return {
                original: original.value,
                tuned: tuned.value,
                dim: rule.rank.get(),
                conv_dim: conv.get(),
                min_diff: least.get(),
                ...rule.get(),
            };
        },
    });
    tuned.addEventListener("change", () => form.suggestName(stem(tuned.value)));
    form.show(
        place,
        t("Extract"),
        note(t("The difference of a fine-tuned model from its original, as a LoRA.")),
        models,
        rule.element,
        grid(conv, least),
    );
    return { view: form.view };
}
