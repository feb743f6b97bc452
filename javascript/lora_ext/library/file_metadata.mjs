// A LoRA file's metadata: the entries that trainers write, in words, and what is counted in them.
import { h } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";
import { summary, table } from "../controls/basic.mjs";

/** Entries that the user may always write, in this order. */
export const EDITABLE = [
    "ss_output_name",
    "modelspec.title",
    "modelspec.author",
    "modelspec.description",
    "modelspec.trigger_phrase",
    "modelspec.tags",
    "ss_training_comment",
];

/** Entry → its name in words, in the order in which they are shown. @returns {Record<string, string>} */
const entryNames = () => ({
    ss_output_name: t("name given by the trainer"),
    "modelspec.title": t("title"),
    "modelspec.author": t("author"),
    "modelspec.description": t("description"),
    "modelspec.trigger_phrase": t("trigger words"),
    "modelspec.tags": t("tags"),
    "modelspec.license": t("licence"),
    ss_sd_model_name: t("trained on"),
    ss_base_model_version: t("base"),
    ss_network_module: t("network"),
    ss_network_dim: t("rank"),
    ss_network_alpha: t("alpha"),
    ss_network_args: t("network arguments"),
    ss_resolution: t("resolution"),
    ss_clip_skip: t("clip skip"),
    ss_num_train_images: t("training pictures"),
    ss_num_reg_images: t("regularisation pictures"),
    ss_num_epochs: t("epochs"),
    ss_epoch: t("this epoch"),
    ss_steps: t("steps"),
    ss_max_train_steps: t("steps planned"),
    ss_learning_rate: t("learning rate"),
    ss_unet_lr: t("learning rate of the U-Net"),
    ss_text_encoder_lr: t("learning rate of the text encoder"),
    ss_lr_scheduler: t("schedule of the learning rate"),
    ss_optimizer: t("optimizer"),
    ss_seed: t("seed"),
    ss_training_comment: t("comment"),
    ss_mixed_precision: t("precision"),
    ss_min_snr_gamma: "min-SNR gamma",
    ss_noise_offset: t("noise offset"),
});

/**
 * The entries that a file has, in words.
 * @param {Record<string, string>} metadata
 * @returns {[string, string][]}
 */
export const namedEntries = (metadata) =>
    Object.entries(entryNames())
        .filter(([key]) => metadata[key] && metadata[key] !== "None")
        .map(([key, name]) => [name, metadata[key]]);

/**
 * Caption tags of the training folders with how often each occurs, most frequent first; none where the entries are not
 * as expected. Folders of regularisation pictures are left out.
 * @param {Record<string, string>} metadata `ss_tag_frequency`: folder → tag → count
 * @returns {[string, number][]}
 */
export function tagFrequency(metadata) {
    /** @type {Map<string, number>} */
    const counts = new Map();
    try {
        const [taught, regularising] = ["ss_dataset_dirs", "ss_reg_dataset_dirs"].map((name) =>
            JSON.parse(metadata[name] || "{}"),
        );
        for (const [folder, tags] of Object.entries(JSON.parse(metadata.ss_tag_frequency || "{}"))) {
            if (folder in regularising && !(folder in taught)) continue;
            for (const [tag, count] of Object.entries(tags)) {
                counts.set(tag.trim(), (counts.get(tag.trim()) || 0) + Number(count));
            }
        }
    } catch {
        return [];
    }
    return [...counts].sort((a, b) => b[1] - a[1]);
}

/** The training folders, as kohya's scripts write them down. @param {Record<string, string>} metadata */
export function datasetTable(metadata) {
    try {
        const folders = Object.entries(JSON.parse(metadata.ss_dataset_dirs || "{}"));
        const rows = folders.map(([name, folder]) => [name, Number(folder.img_count), Number(folder.n_repeats)]);
        if (!rows.length) return null;
        return h("details", {}, summary(t("Dataset")), table([t("folder"), t("pictures"), t("repeats")], rows));
    } catch {
        return null;
    }
}
