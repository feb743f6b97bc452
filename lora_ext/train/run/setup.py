"""What a run prepares before its first step: checks, caches, regularisation images, prompts, trackers, the network."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ...adapter_spec import AdapterSpec
from ...applied_networks import AppliedNetworks
from ...counted_words import counted
from ...errors import TrainError
from ...file.loading import load_lora_file
from ...inject import BAKED
from ...progress import Track
from ...protocols import HostInterface, SampleSpec, TrainableModel, TrainingModelOptions
from ..config.block_settings import block_list_notes
from ..config.layer_choice import is_wider_than_1x1
from ..config.optimizers import optimizer_class_and_settings
from ..config.recipe import Recipe
from ..config.recipe_check import recipe_advice
from ..data.content_cache import TensorCache, cache_folder, tensor_fingerprint
from ..data.dataset import Dataset
from ..network.trainable_network import TrainableNetwork
from . import sample_images, training_state
from .caption_encoder import CaptionEncoder
from .experiment_tracker import ExperimentTracker
from .hub_upload import check_hub_login
from .model_spec import thumbnail_data_url
from .output_files import vae_metadata
from .preflight import PreflightReport, run_preflight
from .process_group import ProcessGroup
from .regularisation_images import (
    generate_missing_images,
    missing_images_to_paste_into,
    missing_regularisation_images,
)
from .training_state import TrainingState
from .training_step import keyed_generator


def training_model_options(recipe: Recipe) -> TrainingModelOptions:
    """How a recipe wants the model to be prepared."""
    return TrainingModelOptions(
        precision=recipe.mixed_precision,
        train_unet=recipe.trains_unet,
        train_text_encoders=recipe.trains_text,
        gradient_checkpointing=recipe.gradient_checkpointing,
        attention="xformers" if recipe.xformers else "sdpa" if recipe.sdpa else "",
        compile_unet=recipe.torch_compile,
        train_token_embedding=bool(recipe.token_string),
        float32_vae=recipe.no_half_vae,
        blocks_to_swap=recipe.blocks_to_swap,
        fp8_unet=recipe.fp8_base or recipe.fp8_base_unet,
        fp8_text_encoders=recipe.fp8_base and not recipe.fp8_base_unet,
        vae=Path(recipe.vae) if recipe.vae else None,
    )


def check_model(recipe: Recipe, model: TrainableModel, notify: Callable[[str], None]) -> None:
    """Checks that the model is the one the recipe describes and that the optimizer is installed. Raises TrainError."""
    if recipe.v2 and model.family != "SD2":
        raise TrainError(f"v2 is set, but the model is {model.family}; leave v2 out, it is detected")
    if recipe.resolution == Recipe.resolution and not recipe.dataset_config and model.native_size != recipe.size()[0]:
        side = model.native_size
        notify(f"resolution is {recipe.resolution}, but this model was trained at {side}; set resolution {side}")
    # a missing library or picture is reported now, before images are encoded or a token is trained
    optimizer_class_and_settings(recipe)
    thumbnail_data_url(recipe.metadata_thumbnail)
    check_hub_login(recipe)
    if recipe.blocks_to_swap and model.device.type == "cpu":
        notify("blocks_to_swap saves memory of a GPU; this model is trained on the CPU, where it changes nothing")
    if recipe.device and torch.device(recipe.device).type != model.device.type:
        notify(f"the model is on {model.device} and is trained there, not on {recipe.device}")


def create_output_folder(folder: Path) -> None:
    """Creates the folder for the results. Raises TrainError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"--output_dir {folder} cannot be created: {error.strerror or error}") from error


def fit_to_network_weights(recipe: Recipe, notify: Callable[[str], None]) -> Recipe:
    """With `dim_from_weights`, a file with 3x3 layers makes LierLa a C3Lier; other recipes stay as they are."""
    if not (recipe.dim_from_weights and recipe.network_weights and recipe.network_module == "lierla"):
        return recipe
    file = load_lora_file(Path(recipe.network_weights))
    wide = [adapter.rank for adapter in file.adapters.values() if is_wider_than_1x1(adapter.delta_shape() or ())]
    if not wide:
        return recipe
    notify(
        f"dim_from_weights: {file.name} has {counted(len(wide), 'layer')} with 3x3 kernels, so network_module is c3lier"
    )
    return replace(recipe, network_module="c3lier", conv_dim=wide[0])


def choose_run_seed(recipe: Recipe, resumed: TrainingState | None, process_group: ProcessGroup) -> int:
    """The recipe's seed, the resumed state's, or a random one; the same in all processes."""
    if recipe.seed is not None:
        return recipe.seed
    if resumed is not None:
        return resumed.seed
    drawn = torch.tensor([float(random.SystemRandom().randrange(2**20) if process_group.is_main else 0)])
    if process_group.world_size > 1:
        drawn = drawn.to(process_group.device or "cpu")
        process_group.average_in_place([drawn])
    return round(drawn.item() * process_group.world_size)


def fill_image_folders(
    recipe: Recipe, model: TrainableModel, host: HostInterface, seed: int, process_group: ProcessGroup, track: Track
) -> None:
    """Generates missing images of `reg_data_dir` or `paste_data_dir`; the processes share them."""
    wanted = missing_regularisation_images(recipe, seed) + missing_images_to_paste_into(recipe, seed)
    process_group.barrier()  # all processes have counted before the first one writes
    mine = wanted[process_group.rank :: process_group.world_size]
    if mine:
        generate_missing_images(mine, model.generate_image, recipe.size(), track=track, cancelled=host.cancelled)
    process_group.barrier()


def fill_latent_cache(
    recipe: Recipe, model: TrainableModel, data: Dataset, process_group: ProcessGroup, track: Track
) -> None:
    """Encodes all images once if the recipe caches latents; several processes fill a folder together."""
    vae = vae_metadata(recipe).get("ss_new_vae_hash") or model.metadata().get("ss_new_sd_model_hash", "")
    if recipe.cache_latents_to_disk:
        folder = cache_folder(recipe)
        if process_group.world_size > 1:
            data.cache_latents(
                model.encode_images,
                vae,
                folder=folder,
                rank_and_world_size=(process_group.rank, process_group.world_size),
                track=track,
            )
            process_group.barrier()
        data.cache_latents(model.encode_images, vae, folder=folder, track=track)
    elif recipe.cache_latents:
        data.cache_latents(model.encode_images, vae, track=track)


def fill_caption_cache(
    recipe: Recipe, model: TrainableModel, data: Dataset, encode_captions: CaptionEncoder, track: Track
) -> None:
    """Encodes all captions once if the recipe caches text-encoder outputs; on disk later runs reuse them."""
    if not recipe.cache_text_encoder_outputs and not recipe.cache_text_encoder_outputs_to_disk:
        return
    if recipe.cache_text_encoder_outputs_to_disk and not recipe.token_string:
        # the model's name may be empty or shared by two models; the encoding of a caption is not
        fingerprint = tensor_fingerprint(encode_captions(["a picture of 1"]).states)
        settings = recipe.clip_skip, recipe.max_token_length, recipe.mixed_precision, recipe.weighted_captions
        encode_captions.cache_on_disk(TensorCache(cache_folder(recipe)), fingerprint, *settings)
    for caption in track(data.fixed_captions() or [], "encoding captions"):
        encode_captions([caption])


def report_preflight(
    data: Dataset, model: TrainableModel, network: TrainableNetwork, world_size: int, notify: Callable[[str], None]
) -> PreflightReport:
    """Reports what will be trained, before step 1. Raises TrainError for contradictions."""
    trained = sum(p.numel() for p in network.parameters())
    report = run_preflight(data, model, parameter_count=trained, world_size=world_size)
    notify(report.text())
    advice = recipe_advice(data.recipe, "v_prediction" if model.prediction == "v" else "epsilon")
    for sentence in (*advice, *block_list_notes(data.recipe, network.family)):
        notify(sentence)
    return report


def checked_sample_specs(recipe: Recipe, model: TrainableModel, notify: Callable[[str], None]) -> list[SampleSpec]:
    """The sample prompts. Raises LoraError, also for one that could not be generated later."""
    side = model.native_size
    usual = SampleSpec("", width=side, height=side, sampler=recipe.sample_sampler)
    if recipe.sample_prompts is not None:
        found = sample_images.load_sample_prompts(Path(recipe.sample_prompts), usual)
        if not found:
            notify(f"--sample_prompts {recipe.sample_prompts} has no prompt: no samples are generated")
    elif recipe.validation_prompt:
        found = [replace(usual, prompt=recipe.validation_prompt)] * recipe.num_validation_images
    else:
        return []
    for spec in found:
        model.check_sample(spec)
    return found


def open_tracker(
    recipe: Recipe, folder: Path, started: float, notify: Callable[[str], None], group: ProcessGroup
) -> ExperimentTracker | None:
    """Opens the main process's tracker if the recipe names one or a folder for it. Raises TrainError."""
    if not group.is_main or (recipe.log_with is None and recipe.logging_dir is None):
        return None
    where = Path(recipe.logging_dir or folder / "logs")
    kinds = ["tensorboard", "wandb"] if recipe.log_with == "all" else [recipe.log_with or "tensorboard"]
    name = (recipe.log_prefix or "") + time.strftime("%Y%m%d%H%M%S", time.localtime(started))
    plain = {k: v for k, v in training_state.recipe_as_json(recipe).items() if isinstance(v, (int, float, str, bool))}
    tracker = ExperimentTracker(kinds, where / name, recipe.log_tracker_name or "network_train", plain)
    if tracker.missing:
        those = ", ".join(tracker.missing)
        notify(f"log_with {recipe.log_with}: {those} is not installed and logs nothing (pip install {those})")
    return tracker


def apply_base_weights(model: TrainableModel, recipe: Recipe, notify: Callable[[str], None]) -> AppliedNetworks:
    """Adds the recipe's `base_weights`, and the first pass of mode difference, to the model; `close` restores it."""
    applied = AppliedNetworks(model, BAKED)
    paths = recipe.base_weights + ((recipe.diff_load_1st_pass,) if recipe.diff_load_1st_pass else ())
    weights = (*recipe.base_weights_multiplier, *[1.0] * len(paths))
    files = [load_lora_file(Path(path)) for path in paths]
    for fit in applied.apply([AdapterSpec(file, te=w, unet=w) for file, w in zip(files, weights, strict=False)]):
        notify(f"base_weights: {fit}")
    return applied


def build_network(parts: Mapping[str, nn.Module], recipe: Recipe, notify: Callable[[str], None]) -> TrainableNetwork:
    """Builds the recipe's network, continued from a file if it names one."""
    file = load_lora_file(Path(recipe.network_weights)) if recipe.network_weights else None
    network = TrainableNetwork(parts, recipe, generator=keyed_generator(recipe.seed, "network"), file=file)
    if file is not None and network.untrained_layers:
        where = ", ".join(
            f"{n} in {part}" for part, n in sorted(Counter(s.part for s in network.untrained_layers).items())
        )
        notify(f"network_weights {file.name} has layers that this recipe does not train ({where}); they are left out")
    return network
