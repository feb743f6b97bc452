"""`Recipe`: every option of training; command line, config file, form and metadata are generated from it.

Names and defaults are those of kohya's `train_network.py`, and its `network_args` are options of their own here. Three
defaults suit a LoRA better: `learning_rate`, `caption_extension` and `output_name`.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, fields
from typing import Any

from ...errors import TrainError
from ...precisions import TRAINED_FILE_PRECISIONS
from .memory_options import MemoryOptions
from .metadata_options import MetadataOptions
from .mode_options import ModeOptions
from .network_options import NetworkOptions
from .optimizer_options import OptimizerOptions
from .prompt_options import PromptOptions
from .recipe_option import (
    MAX_SIDE_PIXELS,
    MAX_STEPS,
    OPTION_GROUPS,
    PRIOR_LOSS_TARGETS,
    RESIZE_INTERPOLATIONS,
    RecipeOption,
    recipe_option,
)
from .saving_options import SavingOptions
from .validation_options import ValidationOptions


class UserOptimizerClass(str):
    """`module.Class` of an optimizer that the user typed on the command line; only then the module is imported.

    Only the command line's parser makes one. Text from anywhere else (a request, metadata, a preset, a config file or a
    saved run) is looked up in the table of known optimizers, because importing a module runs its code.
    """


@dataclass(frozen=True)
class Recipe(
    MetadataOptions,
    SavingOptions,
    ValidationOptions,
    OptimizerOptions,
    PromptOptions,
    ModeOptions,
    MemoryOptions,
    NetworkOptions,
):
    """The settings of one training run; None means "not set". Each option's help says what it does.

    Example:
        >>> recipe = Recipe(network_module="c3lier", network_dim=8, resolution="512,768", unet_lr=2e-4)
        >>> recipe.size(), recipe.rate("unet"), recipe.rate("te")
        ((512, 768), 0.0002, 0.0001)
    """

    # --- base model
    pretrained_model_name_or_path: str | None = recipe_option(
        None, "checkpoint file or diffusers folder to train on", "model", basic=True, kind="file"
    )
    v2: bool = recipe_option(False, "the model is Stable Diffusion 2.x; detected if not set", "model")
    v_parameterization: bool = recipe_option(False, "the model predicts v; detected if not set", "model")
    vae: str | None = recipe_option(None, "another autoencoder: a file, or a diffusers folder", "model", kind="file")
    clip_skip: int | None = recipe_option(
        None, "text-encoder layer that is used, counted from the end", "model", low=1, high=12
    )
    # --- learning
    learning_rate: float = recipe_option(1e-4, "learning rate where no other is set", "learning", low=0, basic=True)
    unet_lr: float | None = recipe_option(None, "learning rate of the U-Net", "learning", low=0)
    text_encoder_lr: float | None = recipe_option(None, "learning rate of the text encoder", "learning", low=0)
    text_encoder_2_lr: float | None = recipe_option(
        None, "learning rate of SDXL's second text encoder; else text_encoder_lr", "learning", low=0
    )
    max_train_epochs: int | None = recipe_option(
        None, "epochs: passes over all pictures", "learning", low=1, high=MAX_STEPS, basic=True
    )
    max_train_steps: int = recipe_option(
        1600, "steps, where max_train_epochs is not set", "learning", low=1, high=MAX_STEPS, basic=True
    )
    initial_epoch: int | None = recipe_option(
        None, "first epoch, counted from 1; the schedule of the learning rate begins at 0", "learning", low=1
    )
    initial_step: int | None = recipe_option(
        None, "first step, counted from 0: its epoch is the first", "learning", low=0, high=MAX_STEPS
    )
    skip_until_initial_step: bool = recipe_option(
        False, "begin at exactly that step, with its number and its pictures", "learning"
    )
    train_batch_size: int = recipe_option(1, "pictures in a step", "learning", low=1, high=256, basic=True)
    gradient_accumulation_steps: int = recipe_option(1, "batches whose gradients make one step", "learning", low=1)
    seed: int | None = recipe_option(
        None, "random seed; drawn and recorded if not set", "learning", low=0, high=2**63 - 1
    )
    ema_decay: float | None = recipe_option(
        None,
        "EMA: files hold the moving average of the weights with this decay; 0.999 is usual",
        "learning",
        low=0,
        high=1,
    )
    max_grad_norm: float = recipe_option(1.0, "gradient clipping: largest norm; 0 is no limit", "learning", low=0)
    # --- loss
    loss_type: str = recipe_option(
        "l2", "distance of prediction and target", "loss", ("l2", "l1", "huber", "smooth_l1")
    )
    huber_schedule: str = recipe_option(
        "snr",
        "how the threshold depends on the timestep: constant, else from 1 without noise down to huber_c",
        "loss",
        ("constant", "exponential", "snr"),
    )
    huber_c: float = recipe_option(0.1, "Huber threshold between the quadratic and the linear part", "loss", low=1e-6)
    huber_scale: float = recipe_option(1.0, "factor on the threshold of all timesteps", "loss", low=1e-6)
    min_snr_gamma: float | None = recipe_option(
        None, "min-SNR: timesteps with little noise count less; 5 is usual", "loss", low=0, basic=True
    )
    scale_v_pred_loss_like_noise_pred: bool = recipe_option(False, "v-prediction weighed like epsilon", "loss")
    v_pred_like_loss: float | None = recipe_option(
        None, "share of a loss like that of v-prediction that is added: noisy timesteps count more", "loss", low=0
    )
    debiased_estimation_loss: bool = recipe_option(
        False, "noisy timesteps count more, by 1 / √SNR (arXiv 2310.08442)", "loss"
    )
    noise_offset: float | None = recipe_option(
        None,
        "shifts the noise of each channel by a random amount, for very dark and very bright pictures; 0.1 is usual",
        "loss",
        low=0,
    )
    noise_offset_random_strength: bool = recipe_option(False, "noise_offset drawn up to its value", "loss")
    adaptive_noise_scale: float | None = recipe_option(
        None, "noise_offset grows by this times the latents' mean", "loss"
    )
    multires_noise_iterations: int | None = recipe_option(
        None, "pyramid noise: levels of coarser noise that are added; 6 is usual", "loss", low=0, high=16
    )
    multires_noise_discount: float = recipe_option(0.3, "strength of each further level", "loss", low=0, high=1)
    ip_noise_gamma: float | None = recipe_option(
        None, "input perturbation: the model sees more noise than it is to predict; 0.1 is usual", "loss", low=0
    )
    ip_noise_gamma_random_strength: bool = recipe_option(False, "ip_noise_gamma drawn up to its value", "loss")
    zero_terminal_snr: bool = recipe_option(False, "noise schedule that ends in pure noise", "loss")
    min_timestep: int | None = recipe_option(None, "least timestep, 0 … 999", "loss", low=0, high=999)
    max_timestep: int | None = recipe_option(
        None, "one more than the largest timestep, 1 … 1000", "loss", low=1, high=1000
    )
    masked_loss: bool = recipe_option(False, "weigh the loss by masks from conditioning_data_dir or alpha", "loss")
    prior_loss_weight: float = recipe_option(1.0, "weight of regularisation pictures", "loss", low=0)
    prior_loss_target: str = recipe_option(
        "picture",
        "target for regularisation pictures: the pictures, or the base model's own predictions",
        "loss",
        PRIOR_LOSS_TARGETS,
    )
    # --- data
    train_data_dir: str | None = recipe_option(
        None, "folder of N_concept folders, or of pictures", "data", basic=True, kind="folder"
    )
    reg_data_dir: str | None = recipe_option(
        None, "regularisation pictures, same naming", "data", basic=True, kind="folder"
    )
    reg_generate: bool = recipe_option(False, "generate missing regularisation pictures with the model", "data")
    dataset_config: str | None = recipe_option(
        None, "kohya's dataset toml (takes the place of the folders)", "data", kind="file"
    )
    in_json: str | None = recipe_option(
        None, "JSON file with the pictures' captions, as kohya's finetune scripts write it", "data", kind="file"
    )
    conditioning_data_dir: str | None = recipe_option(
        None, "folder of masks with the pictures' names, for masked_loss", "data", kind="folder"
    )
    dataset_repeats: int = recipe_option(1, "repeats of a folder without a number", "data", low=1)
    strict_images: bool = recipe_option(False, "stop at a picture that cannot be read, instead of skipping it", "data")
    max_data_loader_n_workers: int = recipe_option(8, "threads that prepare pictures", "data", low=0, high=64)
    # --- pictures
    resolution: str = recipe_option("512", "side, or width,height, in pixels", "pictures", basic=True)
    enable_bucket: bool = recipe_option(False, "sizes by the pictures' aspect ratios", "pictures", basic=True)
    min_bucket_reso: int = recipe_option(256, "shortest side of a bucket", "pictures", low=8, high=MAX_SIDE_PIXELS)
    max_bucket_reso: int = recipe_option(1024, "longest side of a bucket", "pictures", low=64, high=MAX_SIDE_PIXELS)
    bucket_reso_steps: int = recipe_option(
        64, "bucket sides are multiples of it", "pictures", low=8, high=MAX_SIDE_PIXELS
    )
    bucket_no_upscale: bool = recipe_option(False, "never enlarge a picture", "pictures")
    resize_interpolation: str | None = recipe_option(
        None,
        "how pictures are resized; without it area to reduce, Lanczos to enlarge",
        "pictures",
        RESIZE_INTERPOLATIONS,
    )
    flip_aug: bool = recipe_option(False, "mirror pictures at random, half of the time", "pictures", basic=True)
    color_aug: bool = recipe_option(False, "vary hue and gamma", "pictures")
    random_crop: bool = recipe_option(False, "crop at a random place instead of the centre", "pictures")
    face_crop_aug_range: str | None = recipe_option(
        None, "crop around the face by these factors, such as 2.0,4.0", "pictures"
    )
    alpha_mask: bool = recipe_option(False, "the alpha channel is the loss's mask", "pictures")
    # --- captions
    caption_extension: str = recipe_option(".txt", "captions' suffix; .caption is read too", "captions", basic=True)
    caption_separator: str = recipe_option(",", "what separates tags", "captions")
    shuffle_caption: bool = recipe_option(False, "shuffle the tags", "captions", basic=True)
    keep_tokens: int = recipe_option(0, "first tags that stay in place", "captions", low=0, high=255, basic=True)
    keep_tokens_separator: str = recipe_option("", "tags before this separator stay in place", "captions")
    secondary_separator: str | None = recipe_option(None, "tags joined by this separator count as one", "captions")
    enable_wildcard: bool = recipe_option(False, "choose at random from {a|b} and from a caption's lines", "captions")
    caption_prefix: str | None = recipe_option(None, "put before every caption", "captions")
    caption_suffix: str | None = recipe_option(None, "put after every caption", "captions")
    caption_dropout_rate: float = recipe_option(0.0, "share of captions left empty", "captions", low=0, high=1)
    caption_dropout_every_n_epochs: int = recipe_option(0, "no captions in every n-th epoch", "captions", low=0)
    caption_tag_dropout_rate: float = recipe_option(0.0, "share of tags left out", "captions", low=0, high=1)
    token_warmup_min: int = recipe_option(1, "number of tags at the start of the warm-up", "captions", low=1)
    token_warmup_step: float = recipe_option(0.0, "steps (below 1: share) until all tags are used", "captions", low=0)
    weighted_captions: bool = recipe_option(
        False, "brackets in captions are emphasis as in prompts, such as (red:1.2)", "captions"
    )
    max_token_length: int = recipe_option(75, "tokens of a caption: 75, 150 or 225", "captions", low=75, high=225)
    # --- caches
    cache_latents: bool = recipe_option(False, "encode every picture once, kept in memory", "cache", basic=True)
    cache_latents_to_disk: bool = recipe_option(False, "keep the cached latents on disk", "cache")
    vae_batch_size: int = recipe_option(1, "pictures encoded together", "cache", low=1)
    cache_text_encoder_outputs: bool = recipe_option(
        False, "encode every caption once (without text-encoder training)", "cache"
    )
    cache_text_encoder_outputs_to_disk: bool = recipe_option(
        False, "keep the cached text-encoder outputs on disk", "cache"
    )
    # --- machine
    sdpa: bool = recipe_option(
        False, "attention by torch's scaled_dot_product_attention: fast, little memory", "machine"
    )
    xformers: bool = recipe_option(False, "attention by the package xformers: fast, little memory", "machine")
    torch_compile: bool = recipe_option(False, "compile the U-Net: a slow first step, faster ones after it", "machine")
    no_half_vae: bool = recipe_option(False, "VAE in full precision, where half precision makes NaN", "machine")
    device: str | None = recipe_option(None, "where to train: cuda, cuda:1, cpu, mps", "machine")
    # --- pivotal tuning
    token_string: str | None = recipe_option(None, "new token whose embedding is trained first", "pivotal")
    init_word: str | None = recipe_option(None, "word that the new token's embedding starts from", "pivotal")
    num_vectors_per_token: int = recipe_option(1, "vectors of the new token", "pivotal", low=1, high=75)
    inversion_steps: int = recipe_option(500, "steps that train the new token alone", "pivotal", low=1, high=MAX_STEPS)
    inversion_lr: float = recipe_option(5e-4, "learning rate of the new token", "pivotal", low=0)
    inversion_continue: bool = recipe_option(False, "keep training the token together with the network", "pivotal")
    # --- saving
    output_dir: str | None = recipe_option(None, "folder for the results", "saving", basic=True, kind="folder")
    output_name: str = recipe_option("last", "name of the file", "saving", basic=True)
    save_precision: str | None = recipe_option(
        None, "dtype of the file; else as trained", "saving", TRAINED_FILE_PRECISIONS
    )
    save_every_n_epochs: int | None = recipe_option(None, "save a file every n epochs", "saving", low=1, basic=True)
    save_every_n_steps: int | None = recipe_option(None, "save a file every n steps", "saving", low=1)
    save_last_n_epochs: int | None = recipe_option(None, "keep only the last n epoch files", "saving", low=1)
    save_last_n_steps: int | None = recipe_option(None, "keep only files of the last n steps", "saving", low=1)
    save_state: bool = recipe_option(False, "save a state for resuming with each file", "saving")
    save_state_on_train_end: bool = recipe_option(False, "save a state for resuming at the end", "saving")
    save_last_n_epochs_state: int | None = recipe_option(None, "keep only the last n epochs' states", "saving", low=1)
    save_last_n_steps_state: int | None = recipe_option(None, "keep only states of the last n steps", "saving", low=1)
    resume: str | None = recipe_option(None, "folder of a saved state to resume from", "saving", kind="folder")
    # --- samples
    sample_prompts: str | None = recipe_option(
        None,
        "file of prompts, one a line, with --n negative, --w width, --h height, --d seed, --s steps, --l CFG scale",
        "samples",
        basic=True,
        kind="file",
    )
    sample_every_n_epochs: int | None = recipe_option(
        None, "generate samples every n epochs", "samples", low=1, basic=True
    )
    sample_every_n_steps: int | None = recipe_option(None, "generate samples every n steps", "samples", low=1)
    sample_at_first: bool = recipe_option(False, "generate samples before the first step", "samples")
    sample_sampler: str = recipe_option(
        "ddim", "sampling method of the samples, such as ddim, euler_a or DPM++ 2M", "samples"
    )
    # --- logging
    logging_dir: str | None = recipe_option(None, "folder for TensorBoard", "logging", kind="folder")
    log_with: str | None = recipe_option(
        None, "where the loss is logged too: tensorboard, wandb or all", "logging", ("tensorboard", "wandb", "all")
    )
    log_prefix: str | None = recipe_option(None, "prefix of the run's log folder", "logging")
    log_tracker_name: str | None = recipe_option(None, "name of the run in the tracker", "logging")

    # --- derived values

    @property
    def trains_unet(self) -> bool:
        """Whether the U-Net is trained."""
        return not self.network_train_text_encoder_only

    @property
    def trains_text(self) -> bool:
        """Whether the text encoders are trained: only from pictures, as other modes compare the U-Net's predictions."""
        return not self.network_train_unet_only and self.mode == "pictures"

    @property
    def is_dylora(self) -> bool:
        """Whether the network is a DyLoRA."""
        return self.network_module == "dylora"

    def rate(self, part: str) -> float:
        """The learning rate of a part.

        Args:
            part: "unet", "te" or "te2".

        Returns:
            The part's own rate, or `learning_rate` where it has none.
        """
        own = self.unet_lr if part == "unet" else self.text_encoder_lr
        if part == "te2" and self.text_encoder_2_lr is not None:
            own = self.text_encoder_2_lr
        return self.learning_rate if own is None else own

    def up_rate_ratio(self, part: str) -> float | None:
        """LoRA+'s ratio of the learning rates of the up and the down factor.

        Args:
            part: "unet", "te" or "te2".

        Returns:
            The part's own ratio, or `loraplus_lr_ratio`; None where both factors have the same rate.
        """
        own = self.loraplus_unet_lr_ratio if part == "unet" else self.loraplus_text_encoder_lr_ratio
        return own or self.loraplus_lr_ratio or None  # 0 means "not set", as in kohya's scripts

    def size(self) -> tuple[int, int]:
        """The size that images are trained at.

        Returns:
            (width, height) of `resolution`, in pixels.

        Raises:
            TrainError: a side has more digits than Python converts.
        """
        try:
            sides = [int(side) for side in self.resolution.replace("x", ",").split(",")]
        except ValueError:
            raise TrainError(f"resolution is {self.resolution[:40]!r}; give one or two numbers of pixels") from None
        return sides[0], sides[-1]


def recipe_options() -> dict[str, tuple[Field[Any], RecipeOption]]:
    """Lists all options in the order of their groups.

    Returns:
        Name → (dataclass field, option). The field's `type` is the annotation's text.
    """
    found = {f.name: (f, f.metadata["option"]) for f in fields(Recipe)}
    return dict(sorted(found.items(), key=lambda item: OPTION_GROUPS.index(item[1][1].group)))
