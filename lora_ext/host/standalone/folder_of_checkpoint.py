"""Writes a checkpoint file as a diffusers folder (`merge --sd_model X.safetensors --save_to FOLDER`), LoRAs or not.

Each network's file is written tensor by tensor. Configurations are those of diffusers' and transformers' classes,
filled in from the tensors' shapes and the `.yaml` beside the checkpoint, as when the checkpoint is loaded.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...adapter_spec import AdapterSpec
from ...command_line import cast_tensor, check_disk_space
from ...counted_words import counted
from ...errors import FileError
from ...file.base_model import SD2, SDXL
from ...file.containers import load_tensors
from ...progress import Track
from ...protocols import VAE_SCALE_FACTOR
from ...tools.checkpoint_changes import CheckpointFilePlan, assign_adapters
from ...tools.checkpoint_keys import find_weight_locations
from ...tools.checkpoint_stream import TensorChange, open_tensor_file, write_made_tensors
from ...tools.diffusers_folders import MODEL_INDEX, check_replaceable, replacing_folder
from ...tools.ldm_names import LdmTensor, ldm_tensors
from ...tools.report import ToolReport
from ..checkpoint_layout import (
    EPSILON_PREDICTION,
    V_PREDICTION,
    CheckpointLayout,
    TextEncoderLayout,
    detect_checkpoint_layout,
    modern_key,
)
from ..native_size import native_size_for
from .ldm_checkpoint import is_v_prediction, load_network_weights
from .loader import checkpoint_hints
from .noise_schedule import scaled_linear_alphas
from .tokenizer_files import TransformersTokenizer

UNET_FILE, TEXT_FILE = "diffusion_pytorch_model.safetensors", "model.safetensors"
"""Names of weight files in a diffusers folder: of diffusers' networks and of transformers'."""


@dataclass
class _Network:
    """One network of the folder: its module on the meta device, and the checkpoint's tensor of each of its tensors."""

    module: Any
    file_name: str
    rows: list[LdmTensor]
    row_of: dict[str, tuple[LdmTensor, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.row_of = {name: (row, number) for row in self.rows for number, name in enumerate(row.sources)}


def write_checkpoint_as_folder(
    checkpoint: Path,
    specs: Sequence[AdapterSpec],
    save_to: Path,
    report: ToolReport,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
    track: Track,
    tokenizer: Path | None = None,
    prediction: str | None = None,
) -> None:
    """Writes a checkpoint as a diffusers folder, with Σ weightᵢ·ΔWᵢ added.

    Args:
        checkpoint: an LDM checkpoint of SD1, SD2 or SDXL, inpainting models too.
        specs: the LoRA files with their weights; may be empty.
        save_to: the folder to write; a diffusers model that is there is replaced.
        report: is filled.
        dtype: of all floating-point tensors of the result; None keeps each tensor's own.
        device: where the sums are computed.
        track: shows progress.
        tokenizer: a folder with CLIP's tokenizer; by default those that `find_tokenizer` searches.
        prediction: what the U-Net predicts, "epsilon" or "v", where neither the file nor a `.yaml` says.

    Raises:
        FileError: no checkpoint of these families, tensors are missing, no tokenizer, or a file cannot be written.
        ToolError: `save_to` is another kind of folder, or as `assign_adapters`.
    """
    check_replaceable(save_to)
    hints, words = checkpoint_hints(checkpoint, tokenizer, prediction)
    if not isinstance(words, TransformersTokenizer):
        raise FileError(f"the tokenizer of {checkpoint} cannot be written as a folder; give one with --tokenizer DIR")
    plan = _open_checkpoint(checkpoint)
    names = {modern_key(name, plan.tensor_file.shapes): name for name in plan.tensor_file.shapes}
    try:
        layout = detect_checkpoint_layout({new: plan.tensor_file.shapes[old] for new, old in names.items()}, hints)
        networks = _networks(layout, words)
        _check_tensors(networks, names, plan)
    except FileError as error:
        raise FileError(f"{checkpoint}: {error}") from error
    if words.size > layout.text_encoders[0].config["vocab_size"]:
        raise FileError(f"the tokenizer has {words.size} tokens, more than the text encoder; give that of this model")
    if specs:
        assign_adapters([plan], specs, report, str(checkpoint))
    targets = [_shapes_of(network, names, plan, dtype) for network in networks.values()]
    check_disk_space(save_to, sum(t.nbytes for shapes in targets for t in shapes.values()) + 10_000_000)
    changes = plan.tensor_changes(dtype, device)
    with replacing_folder(save_to) as part:
        for (name, network), shapes in zip(networks.items(), targets, strict=True):
            (part / name).mkdir()
            make = _maker(network, names, plan, changes, shapes)
            write_made_tensors(part / name / network.file_name, shapes, make, track, f"{name}/{network.file_name}")
        predicts = layout.prediction or _tested_prediction(networks["unet"].module, part / "unet" / UNET_FILE, report)
        size = native_size_for(layout.family, predicts, layout.unet["sample_size"])
        networks["unet"].module.register_to_config(sample_size=size // VAE_SCALE_FACTOR)
        networks["vae"].module.register_to_config(sample_size=size)
        for name, network in networks.items():
            _save_config(network.module, part / name)
        _save_others(part, layout, words, predicts)
    plan.add_rounding_to(report)
    _add_notes(report, networks, names, plan, layout, predicts)


def _open_checkpoint(path: Path) -> CheckpointFilePlan:
    tensor_file = open_tensor_file(path)
    return CheckpointFilePlan(tensor_file, find_weight_locations(tensor_file.shapes))


# --- the networks ----------------------------------------------------------------------------------------------------


def _networks(layout: CheckpointLayout, words: TransformersTokenizer) -> dict[str, _Network]:
    """Subfolder → network. Raises FileError, ToolError where a network has a tensor without a name in checkpoints."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        modules = {
            "unet": UNet2DConditionModel(**layout.unet),
            "vae": AutoencoderKL(**layout.vae, scaling_factor=layout.scaling_factor),
        }
        for subfolder, text in zip(("text_encoder", "text_encoder_2"), layout.text_encoders, strict=False):
            modules[subfolder] = _text_module(text, words)
    return {
        subfolder: _Network(
            module,
            TEXT_FILE if subfolder.startswith("text") else UNET_FILE,
            list(ldm_tensors(subfolder, layout.family, module.state_dict())),
        )
        for subfolder, module in modules.items()
    }


def _text_module(layout: TextEncoderLayout, words: TransformersTokenizer) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if layout.pooled else CLIPTextModel
    # the pooled state is that of the first end token
    return kind(CLIPTextConfig(**layout.config, bos_token_id=words.start_id, eos_token_id=words.end_id))


def _check_tensors(networks: Mapping[str, _Network], names: Mapping[str, str], plan: CheckpointFilePlan) -> None:
    """Raises FileError where a tensor is missing or has another shape."""
    for subfolder, network in networks.items():
        missing = [row.name for row in network.rows if row.name not in names]
        if len(missing) == 1:
            raise FileError(f"its {subfolder} lacks 1 of {len(network.rows)} tensors: {missing[0]}")
        if missing:
            raise FileError(
                f"its {subfolder} lacks {len(missing)} of {len(network.rows)} tensors, such as {missing[0]}"
            )
        wanted = network.module.state_dict()
        for row in network.rows:
            made = row.split(torch.empty(plan.tensor_file.shapes[names[row.name]], device="meta"))
            for name, tensor in zip(row.sources, made, strict=False):
                has, needs = tuple(tensor.shape), tuple(wanted[name].shape)
                if has != needs and not (row.as_kernel and has == (*needs, 1, 1)):
                    raise FileError(f"{row.name} has shape {has} where {needs} belongs")


def _shapes_of(
    network: _Network, names: Mapping[str, str], plan: CheckpointFilePlan, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Tensor name → a tensor on the meta device with the shape and dtype that is written."""
    found = {}
    for name, tensor in network.module.state_dict().items():
        own = plan.tensor_file.dtype(names[network.row_of[name][0].name])
        found[name] = torch.empty(
            tensor.shape, dtype=dtype if dtype is not None and own.is_floating_point else own, device="meta"
        )
    return found


def _maker(
    network: _Network,
    names: Mapping[str, str],
    plan: CheckpointFilePlan,
    changes: Mapping[str, TensorChange],
    shapes: Mapping[str, Tensor],
) -> Callable[[str], Tensor]:
    """The function that makes a tensor of the network.

    OpenCLIP's stacked q, k and v are read and changed once; those that are not written yet are kept.
    """
    waiting: dict[str, Tensor] = {}

    def make(name: str) -> Tensor:
        if name not in waiting:
            row, _ = network.row_of[name]
            key = names[row.name]
            tensor = plan.tensor_file.load_tensor(key)
            changed = changes[key](tensor) if key in changes else tensor
            waiting.update(zip(row.sources, row.split(changed), strict=True))
        tensor, target = waiting.pop(name), shapes[name]
        made = tensor if tensor.dtype == target.dtype else cast_tensor(tensor, target.dtype, name)
        return made.reshape(target.shape).contiguous()

    return make


# --- configurations --------------------------------------------------------------------------------------------------


def _save_config(module: Any, folder: Path) -> None:
    """Writes `config.json` as the class itself does."""
    if hasattr(module, "save_config"):
        module.save_config(folder)
    else:
        module.config.architectures = [type(module).__name__]
        module.config.save_pretrained(folder)


def _save_others(part: Path, layout: CheckpointLayout, words: TransformersTokenizer, prediction: str) -> None:
    """Writes the tokenizers, the scheduler and `model_index.json`."""
    import diffusers

    parts: dict[str, Any] = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    for number, text in enumerate(layout.text_encoders):
        ending = "_2" if number else ""
        kind = "CLIPTextModelWithProjection" if text.pooled else "CLIPTextModel"
        parts[f"text_encoder{ending}"] = ["transformers", kind]
        parts[f"tokenizer{ending}"] = ["transformers", _save_tokenizer(words, text, part / f"tokenizer{ending}")]
    scheduler = _scheduler(layout, prediction)
    scheduler.save_config(part / "scheduler")
    parts["scheduler"] = ["diffusers", type(scheduler).__name__]
    parts |= {"feature_extractor": [None, None], "image_encoder": [None, None]}
    if layout.family == SDXL:
        more: dict[str, Any] = {"force_zeros_for_empty_prompt": True}
    else:
        more = {"safety_checker": [None, None], "requires_safety_checker": False}
    middle = "XL" if layout.family == SDXL else ""
    pipeline = f"StableDiffusion{middle}{'Inpaint' if layout.is_inpainting else ''}Pipeline"
    index = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__, **parts, **more}
    (part / MODEL_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save_tokenizer(words: TransformersTokenizer, text: TextEncoderLayout, folder: Path) -> str:
    """Writes the tokenizer as one text encoder uses it; returns its class' name."""
    tokenizer = copy.deepcopy(words.tokenizer)
    tokenizer.model_max_length = text.config["max_position_embeddings"]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(words.end_id if text.pad_id is None else text.pad_id)
    tokenizer.save_pretrained(folder)
    return str(type(tokenizer).__name__)


def _scheduler(layout: CheckpointLayout, prediction: str) -> Any:
    """The scheduler of the family's published folders: Euler for SDXL, else DDIM, with the checkpoint's schedule."""
    from diffusers import DDIMScheduler, EulerDiscreteScheduler

    first, last, count = layout.betas
    settings = {
        "beta_schedule": "scaled_linear",
        "beta_start": first,
        "beta_end": last,
        "num_train_timesteps": count,
        "prediction_type": "v_prediction" if prediction == V_PREDICTION else "epsilon",
        "rescale_betas_zero_snr": layout.zero_terminal_snr,
        # a schedule that ends in pure noise has to start there (Lin et al. 2023, arXiv:2305.08891)
        "timestep_spacing": "trailing" if layout.zero_terminal_snr else "leading",
        "steps_offset": 1,
    }
    if layout.family == SDXL:
        return EulerDiscreteScheduler(**settings)
    return DDIMScheduler(**settings, clip_sample=False, set_alpha_to_one=False)


def _tested_prediction(unet: Any, path: Path, report: ToolReport) -> str:
    """What the U-Net of an SD2 predicts, by the web UI's test: only running it can tell, so that it is loaded."""
    load_network_weights(unet, load_tensors(path).tensors, "U-Net", torch.device("cpu"), torch.float32)
    prediction = V_PREDICTION if is_v_prediction(unet) else EPSILON_PREDICTION
    report.add_note(f"the U-Net predicts {prediction}, as a test run showed; --prediction says otherwise")
    return prediction


def _add_notes(
    report: ToolReport,
    networks: Mapping[str, _Network],
    names: Mapping[str, str],
    plan: CheckpointFilePlan,
    layout: CheckpointLayout,
    prediction: str,
) -> None:
    """Tells what was written and what a folder cannot hold."""
    used = {row.name for network in networks.values() for row in network.rows}
    rest = [name for name in names if name not in used]
    count = sum(len(network.row_of) for network in networks.values())
    report.add_note(f"{count} tensors of {layout.family} under diffusers' names, predicting {prediction}")
    if rest:
        layer = "; SD2's last text-encoder layer is not used" if layout.family == SD2 else ""
        what = counted(
            len(rest),
            f"tensor of the file has no place in a folder: {rest[0]}",
            f"tensors of the file have no place in a folder, such as {rest[0]}",
        )
        report.add_note(f"{what}{layer}")
    if "alphas_cumprod" in names:
        own = plan.tensor_file.load_tensor(names["alphas_cumprod"]).float().cpu()
        usual = scaled_linear_alphas(*layout.betas)
        if not layout.zero_terminal_snr and (own.shape != usual.shape or not torch.allclose(own, usual, atol=1e-3)):
            report.add_note(
                "the file's own noise schedule (alphas_cumprod) is not written: the scheduler has the usual one"
            )
