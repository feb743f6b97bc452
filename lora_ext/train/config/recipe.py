"""`Recipe`: every knob of training, once; command line, config file, form and metadata are made from it.

Names are those of kohya's `train_network.py`; its `network_args` are knobs of their own here. Defaults are its too,
but for three that suit a LoRA better: `learning_rate`, `caption_extension` and `output_name`.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Knob:
    """What a face shows of a field: `kind` is "", "file" or "folder"; `low` and `high` are included, None is open."""

    help: str
    group: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    basic: bool = False
    kind: str = ""


def knob(default: Any, help: str, group: str, choices: tuple[str, ...] = (), **more: Any) -> Any:
    """A dataclass field with its `Knob`."""
    return field(default=default, metadata={"knob": Knob(help, group, choices, **more)})


NETWORKS = ("lierla", "c3lier", "dylora")
PRECISIONS = ("no", "fp16", "bf16")
PRIORS = ("picture", "model")
SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
MOST_STEPS = 10_000_000
"""Steps or epochs of a run, at most: a slip of the finger should not start one that never ends."""
MOST_PIXELS = 16384
"""Pixels of a picture's side, at most."""
INTERPOLATIONS = ("lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area")


class UserClass(str):
    """`module.Class` of an optimizer that the user typed on the command line, which makes it importable.

    Only the command line's parser makes one. Plain text from anywhere else (a request, metadata, a preset, a config
    or a saved run) is looked up in the table of known optimizers and imports nothing.
    """


@dataclass(frozen=True)
class Recipe:
    """One training run. None means "not set"; what that does is in the help."""

    # --- what is trained on
    pretrained_model_name_or_path: str | None = knob(
        None, "checkpoint file or diffusers folder to train on", "model", basic=True, kind="file"
    )
    v2: bool = knob(False, "the model is Stable Diffusion 2.x; without it told from the model", "model")
    v_parameterization: bool = knob(False, "the model predicts v; without it told from the model", "model")
    clip_skip: int | None = knob(None, "which layer of the text encoder speaks, from the end", "model", low=1, high=12)
    # --- network
    network_module: str = knob("lierla", "which network: LierLa, C3Lier, DyLoRA", "network", NETWORKS, basic=True)
    network_dim: int = knob(4, "rank of Linear and 1x1 layers", "network", low=1, high=1024, basic=True)
    network_alpha: float = knob(1.0, "acts with alpha / rank", "network", low=0, high=1024, basic=True)
    conv_dim: int | None = knob(None, "rank of 3x3 layers (C3Lier, DyLoRA)", "network", low=1, high=1024, basic=True)
    conv_alpha: float | None = knob(None, "alpha of 3x3 layers; 1 where conv_dim is set", "network", low=0)
    network_weights: str | None = knob(None, "LoRA file to continue from", "network", kind="file")
    dim_from_weights: bool = knob(False, "ranks as in network_weights", "network")
    network_train_unet_only: bool = knob(False, "leave the text encoder alone", "network", basic=True)
    network_train_text_encoder_only: bool = knob(False, "leave the U-Net alone", "network")
    network_dropout: float | None = knob(None, "share of thin channels' values dropped", "network", low=0, high=0.99)
    rank_dropout: float | None = knob(None, "share of ranks dropped for each picture", "network", low=0, high=0.99)
    module_dropout: float | None = knob(None, "share of modules skipped in a step", "network", low=0, high=0.99)
    scale_weight_norms: float | None = knob(None, "largest norm of a layer's change; 1 is usual", "network", low=0)
    # --- DyLoRA
    unit: int = knob(4, "ranks drawn together; every multiple of it works alone", "dylora", low=1)
    dylora_variant: str = knob(
        "unit",
        "what a step teaches: unit (the drawn one), prefix (all up to it), kohya (the older script's rule)",
        "dylora",
        ("unit", "prefix", "kohya"),
    )
    dylora_draw: str = knob("step", "one draw a step for the network, or for each module", "dylora", ("step", "module"))
    # --- blocks
    down_lr_weight: str | None = knob(
        None, "IN00..IN11: 12 numbers or sine, cosine, linear, reverse_linear, zeros, each with +offset", "blocks"
    )
    mid_lr_weight: str | None = knob(None, "MID: one number", "blocks")
    up_lr_weight: str | None = knob(None, "OUT00..OUT11, as down_lr_weight", "blocks")
    block_lr_zero_threshold: float = knob(0.0, "blocks of this weight or less get no modules", "blocks", low=0)
    block_dims: tuple[int, ...] | None = knob(None, "25 ranks, IN00..IN11, MID, OUT00..OUT11", "blocks")
    block_alphas: tuple[float, ...] | None = knob(None, "25 alphas; else network_alpha", "blocks")
    conv_block_dims: tuple[int, ...] | None = knob(None, "25 ranks of 3x3 layers", "blocks")
    conv_block_alphas: tuple[float, ...] | None = knob(None, "25 alphas of 3x3 layers; else conv_alpha", "blocks")
    # --- learning
    learning_rate: float = knob(1e-4, "step size where no other is set", "learning", low=0, basic=True)
    unet_lr: float | None = knob(None, "learning rate of the U-Net", "learning", low=0)
    text_encoder_lr: float | None = knob(None, "learning rate of the text encoder", "learning", low=0)
    max_train_epochs: int | None = knob(
        None, "how often to go through the pictures", "learning", low=1, high=MOST_STEPS, basic=True
    )
    max_train_steps: int = knob(
        1600, "steps, where max_train_epochs is not set", "learning", low=1, high=MOST_STEPS, basic=True
    )
    train_batch_size: int = knob(1, "pictures in a step", "learning", low=1, high=256, basic=True)
    gradient_accumulation_steps: int = knob(1, "batches whose gradients make one step", "learning", low=1)
    seed: int | None = knob(
        None, "same seed, same run; drawn and noted where not set", "learning", low=0, high=2**63 - 1
    )
    max_grad_norm: float = knob(1.0, "longest gradient; 0 is no limit", "learning", low=0)
    # --- optimizer
    optimizer_type: str = knob("AdamW", "AdamW, AdamW8bit, Lion, Adafactor, Prodigy, SGD …", "optimizer", basic=True)
    optimizer_args: tuple[str, ...] = knob((), "name=value, such as weight_decay=0.01", "optimizer")
    lr_scheduler: str = knob("constant", "how the learning rate moves", "optimizer", SCHEDULERS, basic=True)
    lr_warmup_steps: float = knob(0.0, "steps of rising rate; below 1 a share of all", "optimizer", low=0)
    lr_scheduler_num_cycles: int = knob(1, "restarts of cosine_with_restarts", "optimizer", low=1)
    lr_scheduler_power: float = knob(1.0, "power of polynomial", "optimizer", low=0)
    # --- loss
    loss_type: str = knob("l2", "distance of prediction and target", "loss", ("l2", "l1", "huber", "smooth_l1"))
    huber_schedule: str = knob("snr", "how huber_c moves", "loss", ("constant", "exponential", "snr"))
    huber_c: float = knob(0.1, "where Huber turns from square to straight", "loss", low=1e-6)
    huber_scale: float = knob(1.0, "factor of huber_c with the schedule constant", "loss", low=1e-6)
    min_snr_gamma: float | None = knob(None, "limit of a timestep's weight; 5 is usual", "loss", low=0, basic=True)
    scale_v_pred_loss_like_noise_pred: bool = knob(False, "v-prediction weighed like epsilon", "loss")
    v_pred_like_loss: float | None = knob(None, "share of a v-like loss added", "loss", low=0)
    debiased_estimation_loss: bool = knob(False, "debiased estimation (arXiv 2310.08442)", "loss")
    noise_offset: float | None = knob(None, "noise common to a picture's channel; 0.1 is usual", "loss", low=0)
    noise_offset_random_strength: bool = knob(False, "noise_offset drawn up to its value", "loss")
    adaptive_noise_scale: float | None = knob(None, "noise_offset grows by this times the latents' mean", "loss")
    multires_noise_iterations: int | None = knob(None, "levels of pyramid noise; 6 is usual", "loss", low=0, high=16)
    multires_noise_discount: float = knob(0.3, "strength of each further level", "loss", low=0, high=1)
    ip_noise_gamma: float | None = knob(None, "input perturbation; 0.1 is usual", "loss", low=0)
    ip_noise_gamma_random_strength: bool = knob(False, "ip_noise_gamma drawn up to its value", "loss")
    zero_terminal_snr: bool = knob(False, "noise schedule that ends in pure noise", "loss")
    min_timestep: int | None = knob(None, "least timestep, 0 … 999", "loss", low=0, high=999)
    max_timestep: int | None = knob(None, "one more than the largest timestep, 1 … 1000", "loss", low=1, high=1000)
    masked_loss: bool = knob(False, "weigh the loss by masks from conditioning_data_dir or alpha", "loss")
    prior_loss_weight: float = knob(1.0, "weight of regularisation pictures", "loss", low=0)
    prior_loss_target: str = knob(
        "picture", "what regularisation keeps: the pictures, or what the model says of them", "loss", PRIORS
    )
    # --- data
    train_data_dir: str | None = knob(
        None, "folder of N_concept folders, or of pictures", "data", basic=True, kind="folder"
    )
    reg_data_dir: str | None = knob(None, "regularisation pictures, same naming", "data", basic=True, kind="folder")
    reg_generate: bool = knob(False, "draw missing regularisation pictures with the model", "data")
    dataset_config: str | None = knob(
        None, "kohya's dataset toml (takes the place of the folders)", "data", kind="file"
    )
    in_json: str | None = knob(None, "captions from a metadata file", "data", kind="file")
    conditioning_data_dir: str | None = knob(None, "folder of masks", "data", kind="folder")
    dataset_repeats: int = knob(1, "repeats of a folder without a number", "data", low=1)
    strict_images: bool = knob(False, "stop at a picture that cannot be read, instead of skipping it", "data")
    max_data_loader_n_workers: int = knob(8, "threads that prepare pictures", "data", low=0, high=64)
    # --- pictures
    resolution: str = knob("512", "side, or width,height, in pixels", "pictures", basic=True)
    enable_bucket: bool = knob(False, "sizes by the pictures' aspect ratios", "pictures", basic=True)
    min_bucket_reso: int = knob(256, "shortest side of a bucket", "pictures", low=64, high=MOST_PIXELS)
    max_bucket_reso: int = knob(1024, "longest side of a bucket", "pictures", low=64, high=MOST_PIXELS)
    bucket_reso_steps: int = knob(64, "bucket sides are multiples of it", "pictures", low=8)
    bucket_no_upscale: bool = knob(False, "never enlarge a picture", "pictures")
    resize_interpolation: str | None = knob(None, "how pictures are resized", "pictures", INTERPOLATIONS)
    flip_aug: bool = knob(False, "mirror every other time", "pictures", basic=True)
    color_aug: bool = knob(False, "vary hue and gamma", "pictures")
    random_crop: bool = knob(False, "crop at a drawn place instead of the centre", "pictures")
    face_crop_aug_range: str | None = knob(None, "crop around the face by these factors, such as 2.0,4.0", "pictures")
    alpha_mask: bool = knob(False, "the alpha channel is the loss's mask", "pictures")
    # --- captions
    caption_extension: str = knob(".txt", "captions' suffix; .caption is read too", "captions", basic=True)
    caption_separator: str = knob(",", "what separates tags", "captions")
    shuffle_caption: bool = knob(False, "shuffle the tags", "captions", basic=True)
    keep_tokens: int = knob(0, "first tags that stay in place", "captions", low=0, high=255, basic=True)
    keep_tokens_separator: str = knob("", "what comes before this stays in place", "captions")
    secondary_separator: str | None = knob(None, "tags joined by this are one", "captions")
    enable_wildcard: bool = knob(False, "{a|b} and lines of a caption are drawn from", "captions")
    caption_prefix: str | None = knob(None, "put before every caption", "captions")
    caption_suffix: str | None = knob(None, "put after every caption", "captions")
    caption_dropout_rate: float = knob(0.0, "share of captions left empty", "captions", low=0, high=1)
    caption_dropout_every_n_epochs: int = knob(0, "no captions in every n-th epoch", "captions", low=0)
    caption_tag_dropout_rate: float = knob(0.0, "share of tags left out", "captions", low=0, high=1)
    token_warmup_min: int = knob(1, "tags at the start", "captions", low=1)
    token_warmup_step: float = knob(0.0, "steps (below 1: share) until all tags are used", "captions", low=0)
    max_token_length: int = knob(75, "tokens of a caption: 75, 150 or 225", "captions", low=75, high=225)
    # --- caches
    cache_latents: bool = knob(False, "encode every picture once, kept in memory", "cache", basic=True)
    cache_latents_to_disk: bool = knob(False, "and keep them on disk", "cache")
    vae_batch_size: int = knob(1, "pictures encoded together", "cache", low=1)
    cache_text_encoder_outputs: bool = knob(False, "read every caption once (no text encoder training)", "cache")
    cache_text_encoder_outputs_to_disk: bool = knob(False, "and keep it on disk", "cache")
    # --- machine
    mixed_precision: str = knob("no", "compute in half precision", "machine", PRECISIONS, basic=True)
    gradient_checkpointing: bool = knob(False, "less memory, slower", "machine", basic=True)
    sdpa: bool = knob(False, "torch's attention", "machine")
    xformers: bool = knob(False, "xformers' attention", "machine")
    torch_compile: bool = knob(False, "compile the U-Net", "machine")
    no_half_vae: bool = knob(False, "VAE in full precision", "machine")
    device: str | None = knob(None, "where to train: cuda, cuda:1, cpu, mps", "machine")
    # --- pivotal tuning
    token_string: str | None = knob(None, "a new word whose embedding is learned first", "pivotal")
    init_word: str | None = knob(None, "what the new word begins as", "pivotal")
    num_vectors_per_token: int = knob(1, "vectors of the new word", "pivotal", low=1, high=75)
    inversion_steps: int = knob(500, "steps for the new word alone", "pivotal", low=1, high=MOST_STEPS)
    inversion_lr: float = knob(5e-4, "its learning rate", "pivotal", low=0)
    inversion_continue: bool = knob(False, "keep learning it beside the network", "pivotal")
    # --- saving
    output_dir: str | None = knob(None, "folder for the results", "saving", basic=True, kind="folder")
    output_name: str = knob("last", "name of the file", "saving", basic=True)
    save_precision: str | None = knob(None, "dtype of the file; else as trained", "saving", ("float", "fp16", "bf16"))
    save_every_n_epochs: int | None = knob(None, "save every so many epochs", "saving", low=1, basic=True)
    save_every_n_steps: int | None = knob(None, "save every so many steps", "saving", low=1)
    save_last_n_epochs: int | None = knob(None, "keep only the last n epoch files", "saving", low=1)
    save_last_n_steps: int | None = knob(None, "keep only files of the last n steps", "saving", low=1)
    save_state: bool = knob(False, "with each file all that resuming needs", "saving")
    save_state_on_train_end: bool = knob(False, "only at the end", "saving")
    save_last_n_epochs_state: int | None = knob(None, "keep only the last n epochs' states", "saving", low=1)
    save_last_n_steps_state: int | None = knob(None, "keep only states of the last n steps", "saving", low=1)
    resume: str | None = knob(None, "a saved state's folder to go on from", "saving", kind="folder")
    no_metadata: bool = knob(False, "write no ss_* metadata", "saving")
    training_comment: str | None = knob(None, "a remark for the metadata", "saving", basic=True)
    metadata_title: str | None = knob(None, "title in the metadata", "saving")
    metadata_author: str | None = knob(None, "author in the metadata", "saving")
    metadata_description: str | None = knob(None, "description in the metadata", "saving")
    metadata_license: str | None = knob(None, "licence in the metadata", "saving")
    metadata_tags: str | None = knob(None, "tags in the metadata, separated by commas", "saving")
    metadata_trigger_phrase: str | None = knob(None, "trigger words in the metadata", "saving")
    metadata_usage_hint: str | None = knob(None, "usage hint in the metadata", "saving")
    # --- samples
    sample_prompts: str | None = knob(None, "file of prompts, one a line", "samples", basic=True, kind="file")
    sample_every_n_epochs: int | None = knob(None, "draw them every so many epochs", "samples", low=1, basic=True)
    sample_every_n_steps: int | None = knob(None, "draw them every so many steps", "samples", low=1)
    sample_at_first: bool = knob(False, "draw them before the first step", "samples")
    sample_sampler: str = knob("ddim", "sampler", "samples")
    # --- logging
    logging_dir: str | None = knob(None, "folder for TensorBoard", "logging", kind="folder")
    log_with: str | None = knob(None, "tracker", "logging", ("tensorboard", "wandb", "all"))
    log_prefix: str | None = knob(None, "begins the name of the run's log folder", "logging")
    log_tracker_name: str | None = knob(None, "name of the run in the tracker", "logging")

    # --- what follows from them

    @property
    def trains_unet(self) -> bool:
        """Whether the U-Net gets modules."""
        return not self.network_train_text_encoder_only

    @property
    def trains_text(self) -> bool:
        """Whether the text encoder gets modules."""
        return not self.network_train_unet_only

    @property
    def is_dylora(self) -> bool:
        """Whether prefixes of the rank are drawn."""
        return self.network_module == "dylora"

    def rate(self, part: str) -> float:
        """The learning rate of a part: "unet", "te", "te2"."""
        own = self.unet_lr if part == "unet" else self.text_encoder_lr
        return self.learning_rate if own is None else own

    def size(self) -> tuple[int, int]:
        """(width, height) of `resolution`, in pixels."""
        sides = [int(side) for side in self.resolution.replace("x", ",").split(",")]
        return sides[0], sides[-1]


def knobs() -> dict[str, tuple[Field[Any], Knob]]:
    """name → (dataclass field, knob), in order; `field.type` is the annotation's text."""
    return {f.name: (f, f.metadata["knob"]) for f in fields(Recipe)}
