// The training form in words: titles of groups and options, and settings to start from.
import { setOptionLabels } from "../core/server_sentences.mjs";
import { t } from "../core/strings.mjs";

/** Group → its title, in the order in which they are shown. @returns {Record<string, string>} */
export const groupTitles = () => ({
    model: t("model"),
    mode: t("learn from"),
    validation: t("validation"),
    data: t("data"),
    network: t("network"),
    dylora: t("DyLoRA"),
    blocks: t("blocks"),
    learning: t("learning"),
    optimizer: t("optimizer"),
    pictures: t("pictures"),
    captions: t("captions"),
    loss: t("loss"),
    cache: t("caches"),
    machine: t("hardware"),
    pivotal: t("token embedding (pivotal tuning)"),
    saving: t("saving"),
    metadata: t("metadata"),
    samples: t("samples"),
    logging: t("logging"),
});

/** Option → its title; other options are shown by their names. @returns {Record<string, string>} */
const optionTitles = () => ({
    pretrained_model_name_or_path: t("model"),
    train_data_dir: t("picture folder"),
    reg_data_dir: t("regularisation pictures"),
    reg_generate: t("draw missing regularisation pictures"),
    class_prompt: t("prompt of regularisation pictures"),
    num_class_images: t("number of regularisation pictures"),
    prior_loss_target: t("what regularisation keeps"),
    prior_loss_weight: t("weight of regularisation"),
    network_module: t("network type"),
    network_dim: t("rank"),
    network_alpha: t("alpha"),
    conv_dim: t("rank of 3×3 layers"),
    network_train_unet_only: t("U-Net only"),
    max_train_epochs: t("epochs"),
    max_train_steps: t("steps"),
    train_batch_size: t("batch size"),
    optimizer_type: t("optimizer"),
    lr_scheduler: t("schedule of the learning rate"),
    min_snr_gamma: t("min-SNR gamma"),
    enable_bucket: t("aspect-ratio buckets"),
    flip_aug: t("horizontal flip"),
    caption_extension: t("caption files"),
    shuffle_caption: t("shuffle tags"),
    keep_tokens: t("tags kept first"),
    mixed_precision: t("precision"),
    save_every_n_epochs: t("save every … epochs"),
    sample_every_n_epochs: t("samples every … epochs"),
    training_comment: t("comment"),
    output_name: t("file name"),
});

/** An option's title; "" where it has none but its name. @param {string} name */
export const optionTitle = (name) => optionTitles()[name] || "";
setOptionLabels(optionTitle);

/** @typedef {{ name: string, title: string, tip: string, values: Record<string, unknown> }} StartingPoint */

/** Ten files of a run, and samples with each. @param {number} steps */
const savedEvery = (steps) => ({ save_every_n_steps: steps, sample_every_n_steps: steps });
const SHARED = { lr_scheduler: "cosine", enable_bucket: true, cache_latents: true };
const FACE = {
    ...SHARED,
    network_module: "lierla",
    network_dim: 16,
    network_alpha: 8,
    learning_rate: 1e-4,
    text_encoder_lr: 5e-5,
    max_train_steps: 1500,
    ...savedEvery(150),
    min_snr_gamma: 5,
    network_train_unet_only: false,
};
const STYLE = {
    ...SHARED,
    network_module: "c3lier",
    network_dim: 16,
    network_alpha: 8,
    conv_dim: 8,
    conv_alpha: 4,
    learning_rate: 1e-4,
    max_train_steps: 2500,
    ...savedEvery(250),
    min_snr_gamma: 5,
    network_train_unet_only: true,
};
const OBJECT = {
    ...SHARED,
    network_module: "lierla",
    network_dim: 8,
    network_alpha: 4,
    learning_rate: 2e-4,
    text_encoder_lr: 5e-5,
    max_train_steps: 1000,
    ...savedEvery(100),
};
const DYLORA = {
    ...SHARED,
    network_module: "dylora",
    network_dim: 32,
    network_alpha: 16,
    unit: 4,
    learning_rate: 1e-4,
    max_train_steps: 2000,
    ...savedEvery(200),
};

/** Settings that suit what is usually trained. @returns {StartingPoint[]} */
export const startingPoints = () => [
    { name: "face", title: t("face"), tip: t("One person: low learning rate, text encoder trained too"), values: FACE },
    { name: "style", title: t("style"), tip: t("An art style: convolutions trained too, U-Net only"), values: STYLE },
    { name: "object", title: t("object"), tip: t("One thing: small and quick"), values: OBJECT },
    {
        name: "DyLoRA sweep",
        title: t("DyLoRA sweep"),
        tip: t("Trains every rank at once: compare them afterwards and keep the smallest that suffices"),
        values: DYLORA,
    },
];
