"""Before the first step of a run: the wishes of a recipe, and what they make."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from ...errors import TrainError
from ...file.loading import read
from ...progress import Track
from ...protocols import Borrowing, Sample, Shell, Trainee
from ..config.optimizers import maker
from ..config.recipe import Recipe
from ..config.recipe_check import advice
from ..data.content_cache import Store, cache_folder, fingerprint
from ..data.dataset import Dataset
from ..network.trainable_network import Network
from . import sample_images, training_state
from .preflight import Preflight, preflight
from .process_group import Processes
from .regularisation_images import draw_missing, missing
from .training_log import Tracker
from .training_state import State
from .training_step import Captions, generator


def borrowing(recipe: Recipe) -> Borrowing:
    """What a recipe wishes of the model."""
    return Borrowing(
        precision=recipe.mixed_precision,
        unet=recipe.trains_unet,
        text=recipe.trains_text,
        gradient_checkpointing=recipe.gradient_checkpointing,
        attention="xformers" if recipe.xformers else "sdpa" if recipe.sdpa else "",
        compiled=recipe.torch_compile,
        word=bool(recipe.token_string),
        full_vae=recipe.no_half_vae,
    )


def check_model(recipe: Recipe, trainee: Trainee, say: Callable[[str], None]) -> None:
    """Whether the model is the one that the recipe speaks of, and the optimizer is there. Raises TrainError."""
    if recipe.v2 and trainee.family != "SD2":
        raise TrainError(f"v2 is set, but the model is {trainee.family}; leave v2 out, it is told from the model")
    if recipe.resolution == Recipe.resolution and not recipe.dataset_config and trainee.native_size > recipe.size()[0]:
        side = trainee.native_size
        say(f"resolution is {recipe.resolution}, the default; this model was made for {side}: set resolution {side}")
    maker(recipe)  # what is missing is to be told before pictures are encoded or a word is learned
    if recipe.device and torch.device(recipe.device).type != trainee.device.type:
        say(f"the model is on {trainee.device} and trained there, not on {recipe.device}")


def make_folder(folder: Path) -> None:
    """The folder for the results. Raises TrainError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"--output_dir {folder} cannot be made: {error.strerror or error}") from error


def seed(recipe: Recipe, resumed: State | None, team: Processes) -> int:
    """The recipe's, the one that was resumed from, or a drawn one, the same in all processes."""
    if recipe.seed is not None:
        return recipe.seed
    if resumed is not None:
        return resumed.seed
    drawn = torch.tensor([float(random.SystemRandom().randrange(2**20) if team.main else 0)])
    if team.world > 1:
        drawn = drawn.to(team.device or "cpu")
        team.mean([drawn])
    return round(drawn.item() * team.world)


def regularise(recipe: Recipe, trainee: Trainee, shell: Shell, seed: int, team: Processes, track: Track) -> None:
    """Draws the regularisation pictures that are missing, where the recipe says so; processes share them."""
    wanted = missing(recipe, seed)
    team.wait()  # all have counted before the first one draws
    mine = wanted[team.rank :: team.world]
    if mine:
        draw_missing(mine, trainee.sample, recipe.size(), track=track, cancelled=shell.cancelled)
    team.wait()


def cache(recipe: Recipe, trainee: Trainee, data: Dataset, team: Processes, track: Track) -> None:
    """Encodes all pictures once, where the recipe says so; several processes fill a folder together."""
    vae = trainee.metadata().get("ss_new_sd_model_hash", "")
    if recipe.cache_latents_to_disk:
        folder = cache_folder(recipe)
        if team.world > 1:
            data.cache_latents(trainee.encode, vae, folder=folder, share=(team.rank, team.world), track=track)
            team.wait()
        data.cache_latents(trainee.encode, vae, folder=folder, track=track)
    elif recipe.cache_latents:
        data.cache_latents(trainee.encode, vae, track=track)


def cache_text(recipe: Recipe, trainee: Trainee, data: Dataset, captions: Captions, track: Track) -> None:
    """Reads all captions once, where the recipe says so; on disk they serve later runs too."""
    if not recipe.cache_text_encoder_outputs and not recipe.cache_text_encoder_outputs_to_disk:
        return
    if recipe.cache_text_encoder_outputs_to_disk and not recipe.token_string:
        # names of models may be empty or the same for two; what the text encoder makes of a caption is not
        made = fingerprint(captions(["a picture of 1"]).states)
        settings = recipe.clip_skip, recipe.max_token_length, recipe.mixed_precision
        captions.keep_in(Store(cache_folder(recipe)), made, *settings)
    for caption in track(data.captions() or [], "reading captions"):
        captions([caption])


def look(data: Dataset, trainee: Trainee, network: Network, world: int, say: Callable[[str], None]) -> Preflight:
    """The report before step 1, told to the user. Raises TrainError for what cannot be meant."""
    trained = sum(p.numel() for p in network.parameters())
    report = preflight(data, trainee, trained=trained, world=world)
    say(report.text())
    for sentence in advice(data.recipe, "v_prediction" if trainee.prediction == "v" else "epsilon"):
        say(sentence)
    return report


def wishes(recipe: Recipe, trainee: Trainee) -> list[Sample]:
    """The sample prompts. Raises LoraError, also for what could not be drawn when the time comes."""
    if recipe.sample_prompts is None:
        return []
    side = trainee.native_size
    usual = Sample("", width=side, height=side, sampler=recipe.sample_sampler)
    found = sample_images.read_prompts(Path(recipe.sample_prompts), usual)
    for wish in found:
        trainee.check_sample(wish)
    return found


def tracker(recipe: Recipe, folder: Path, started: float) -> Tracker | None:
    """TensorBoard or another tracker, where the recipe names one or a folder for it. Raises TrainError."""
    if recipe.log_with is None and recipe.logging_dir is None:
        return None
    where = Path(recipe.logging_dir or folder / "logs")
    kinds = ["tensorboard", "wandb"] if recipe.log_with == "all" else [recipe.log_with or "tensorboard"]
    name = (recipe.log_prefix or "") + time.strftime("%Y%m%d%H%M%S", time.localtime(started))
    plain = {k: v for k, v in training_state.plain(recipe).items() if isinstance(v, (int, float, str, bool))}
    return Tracker(kinds, where / name, recipe.log_tracker_name or "network_train", plain)


def network(parts: Mapping[str, nn.Module], recipe: Recipe, say: Callable[[str], None]) -> Network:
    """The recipe's network, going on from a file if it says so. say: is told what of the file is left out."""
    file = read(Path(recipe.network_weights)) if recipe.network_weights else None
    made = Network(parts, recipe, generator=generator(recipe.seed, "network"), file=file)
    if file is not None and made.left_out:
        where = ", ".join(f"{n} in {part}" for part, n in sorted(Counter(s.part for s in made.left_out).items()))
        say(f"network_weights {file.name} has layers that this recipe does not train ({where}): they are left out")
    return made
