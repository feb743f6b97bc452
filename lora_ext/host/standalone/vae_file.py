"""Another autoencoder for a model: its tensors from an LDM or diffusers file, or from a diffusers folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import FileError
from ...file.containers import load_tensors
from ...ldm_keys import LDM_VAE_PREFIX
from .folder_safety import check_local_folder, weights_variant

_WEIGHTS_NAME = "diffusion_pytorch_model"
_MODERN = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of the attention's layers in files of diffusers before 0.13 → today's."""
_ATTENTION_NAMES = re.compile("|".join(map(re.escape, _MODERN)))


@contextmanager
def vae_weights_from(vae: Any, path: Path | None) -> Iterator[None]:
    """Fills a model's autoencoder with the tensors of another one, and restores its own afterwards.

    Args:
        vae: diffusers' AutoencoderKL.
        path: an LDM or diffusers file, a folder with `config.json`, or a diffusers model's folder; None leaves it.

    Raises:
        FileError: the file cannot be read, or is not an autoencoder of this size.
    """
    if path is None:
        yield
        return
    tensors = load_vae_tensors(path, vae.config)
    parameters = dict(vae.named_parameters())
    for name, parameter in parameters.items():
        if name not in tensors:
            raise FileError(f"{path} is not an autoencoder of Stable Diffusion: it has no {name}")
        if tensors[name].shape != parameter.shape:
            has, needs = tuple(tensors[name].shape), tuple(parameter.shape)
            raise FileError(f"{path} is an autoencoder of another size: {name} is {has}, the model's {needs}")
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = tensors[name].to(parameter)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]


def load_vae_tensors(path: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Reads an autoencoder's tensors by diffusers' names.

    Args:
        path: see `vae_weights_from`.
        config: configuration of diffusers' AutoencoderKL.

    Returns:
        Name → tensor, as stored.

    Raises:
        FileError: the file cannot be read, or the folder has no weights.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    state = load_tensors(_weights_file(path) if path.is_dir() else path).tensors
    state = {key.removeprefix(LDM_VAE_PREFIX): tensor for key, tensor in state.items()}
    if "encoder.down.0.block.0.norm1.weight" in state:
        state = convert_ldm_vae_checkpoint(state, config)
    return {_ATTENTION_NAMES.sub(lambda match: _MODERN[match[0]], name): tensor for name, tensor in state.items()}


def _weights_file(folder: Path) -> Path:
    """The weights file of a diffusers folder. Raises FileError."""
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    check_local_folder(folder)
    variant = weights_variant(folder)
    stem = f"{_WEIGHTS_NAME}.{variant}" if variant else _WEIGHTS_NAME
    for suffix in (".safetensors", ".bin"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    raise FileError(f"{folder} has no autoencoder: {_WEIGHTS_NAME}.safetensors is missing")
