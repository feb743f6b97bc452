"""Readers of text: prompts, settings, metadata, lists of captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from lora_ext.adapter_spec import Presets, resolve_block_weights
from lora_ext.adapters import Lora
from lora_ext.block_weights import parse_block_presets, parse_block_weights, parse_element_rules
from lora_ext.compare.axes import AXIS_KINDS, parse_axis
from lora_ext.compare.axis_kinds import AxisContext
from lora_ext.compare.cell_store import load_manifest
from lora_ext.compare.image_spec import ImageSpec
from lora_ext.composition import parse_composition
from lora_ext.embedded import LORA_DIR
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.peft_config import load_adapter_config
from lora_ext.file.peft_metadata import parse_peft_metadata
from lora_ext.file.preset_file import load_preset_file
from lora_ext.host.block_weights_infotext import restore_block_weights
from lora_ext.host.infotext import parse_hashes
from lora_ext.host.ldm_config import load_ldm_config
from lora_ext.host.standalone.prompt_editing import PassSteps, parse_and_prompts, parse_prompt_editing
from lora_ext.host.standalone.prompt_encoding import parse_emphasis
from lora_ext.inspect_file import top_tags
from lora_ext.job_history import JobHistory
from lora_ext.kohya_prompt_line import parse_prompt_line
from lora_ext.lora_tags import parse_lora_tags
from lora_ext.prompt_parts import split_prompt_parts
from lora_ext.prompt_regions import split_by_region
from lora_ext.protocols import SampleSpec
from lora_ext.regions.region import parse_region
from lora_ext.train.config.optimizers import parse_optimizer_args
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.config.recipe_io import recipe_from_settings, recipe_to_toml, settings_from_config_file
from lora_ext.train.config.recipe_metadata import settings_from_metadata
from lora_ext.train.data.caption_lists import load_caption_list
from lora_ext.train.data.captions import load_caption_text
from lora_ext.train.data.dataset_toml import load_dataset_toml
from lora_ext.train.run.sample_images import load_sample_prompts
from lora_ext.train.run.training_state import STATE_FOLDER_SUFFIX, STATE_NUMBERS_NAME, find_training_state
from lora_ext.weight_curve import parse_curve, parse_weight

from .engine import Target

TAGS = b"""a cat <lora:a:1>, <lora:a:0.5:0.8:lbw=OUTALL:start=2:stop=0.5> <lyco:b:te=1:unet=0.2:dyn=4>
<lora:a:1:lbw=1,0,0,0,1,1,1,1,1,1,1,1,0.5,0.5,0.5,R,U:lbwe=IN05:attn:0:x=0.5> <lora:a:0@0,1@0.5 cosine,0@1:hr=0.5>
<lora:a:1:at=left half;0-1:feather=0.1:way=output:neg=0:part=own:compose=switch 2> <lora:a:1:lbw=INALL@0,OUTALL@1>"""
PROMPT = b"""a (cat:1.3) [dog] [a:b:0.5] [x|y] \\( BREAK b AND c :0.5 ADDCOMM x ADDBASE y ADDCOL z ADDROW w <lora:a:1:at=left>"""
LINE = b"a cat --n bad --w 512 --h 768 --d 5 --s 20 --l 7.5 --ss euler_a"
TOML = b"""network_dim = 8\nlearning_rate = 1e-4\n[a]\nnetwork_args = ["conv_dim=4", "algo=loha"]\nresolution = "512,768"\nseed = 1
optimizer_type = "AdamW"\noptimizer_args = ["betas=(0.9, 0.99)"]\n"""
DATASET = b"""[general]\nflip_aug = true\n[[datasets]]\nresolution = [64, 64]\nbatch_size = 2\n[[datasets.subsets]]
image_dir = "pictures"\nnum_repeats = 2\nclass_tokens = "cat"\ncaption_extension = ".txt"\n"""
GUI = json.dumps(
    {
        "LoRA_type": "Standard", "network_dim": 8, "network_alpha": 4, "unet_lr": 1e-4, "text_encoder_lr": "5e-5",
        "lr_warmup": 10, "epoch": 2, "optimizer": "AdamW", "optimizer_args": "", "additional_parameters": "--seed 4",
        "noise_offset_type": "Multires", "multires_noise_iterations": 6, "sample_prompts": "a --s 4", "xformers": "sdpa",
        "max_resolution": "512,512", "sample_every_n_steps": 5, "train_batch_size": 1, "save_precision": "fp16",
    }
).encode()  # fmt: skip
METADATA = json.dumps(
    {
        "ss_network_dim": "16", "ss_network_alpha": "8.0", "ss_network_args": '{"conv_dim": 4, "unit": "2"}',
        "ss_network_module": "networks.lora", "ss_datasets": '[{"resolution": [512, 512], "subsets": [{"num_repeats": 2}]}]',
        "ss_optimizer": "torch.optim.adamw.AdamW(betas=(0.9, 0.99))", "ss_learning_rate": "1e-4", "ss_seed": "42",
        "ss_resolution": "(512, 512)", "ss_bucket_info": '{"buckets": {"0": {"resolution": [64, 64], "count": 1}}}',
        "ss_tag_frequency": '{"a": {"cat": 3}}', "ss_v2": "False", "ss_lr_scheduler": "cosine", "ss_min_snr_gamma": "5",
        "lora_adapter_metadata": '{"unet.r": 4, "unet.lora_alpha": 8, "unet.rank_pattern": {"a": 2}}',
    }
).encode()  # fmt: skip
PEFT = json.dumps(
    {
        "peft_type": "LORA", "r": 8, "lora_alpha": 4, "rank_pattern": {"to_q": 4}, "alpha_pattern": {"^to_k$": 2.0},
        "use_rslora": True, "use_dora": False, "target_modules": ["to_q"], "bias": "none", "modules_to_save": None,
        "fan_in_fan_out": False, "layers_to_transform": None, "lora_bias": False, "base_model_name_or_path": "x",
    }
).encode()  # fmt: skip
SHEET = b"""{"version": 1, "x": {"title": "w", "values": ["1", "2"]}, "cells": [{"key": "ab", "file": "a.png", "x": 0, "y": 0,
"spec": {"prompt": "x", "seed": 1}}], "base": {"prompt": "a"}}"""
STATE = b"""{"step": 3, "epoch": 1, "batch": 0, "seed": 1, "batches": 4, "smoothed": [0.1, 0.2], "started": 1.0, "kept": {"a":
[[1, "x"]]}, "recipe": {}}"""


def as_text(data: bytes) -> str:
    """Text with half surrogate pairs and all else that Python's text can hold."""
    return (
        data.decode("utf-8", "surrogatepass" if b"\xed" in data else "surrogateescape")
        if _passes(data)
        else (data.decode("latin-1"))
    )


def _passes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass" if b"\xed" in data else "surrogateescape")
    except UnicodeDecodeError:
        return False
    return True


def text_targets(folder: Path) -> list[Target]:
    """The targets. folder: for the files that readers want."""
    return [*_prompt_targets(), *_value_targets(), *_settings_targets(folder), *_list_targets(folder)]


def _of_text(name: str, parse: Callable[[str], object], *seeds: bytes, weight: float = 1.0, words: str = "") -> Target:
    return Target(name, lambda data: parse(as_text(data)), seeds, words.encode().split(), weight)


def _of_file(name: str, path: Path, load: Callable[[Path], object], *seeds: bytes, weight: float = 0.6) -> Target:
    path.parent.mkdir(parents=True, exist_ok=True)

    def run(data: bytes) -> None:
        path.write_bytes(data)
        load(path)

    return Target(name, run, seeds, (), weight)


def _prompt_targets() -> list[Target]:
    library = LoraLibrary([LORA_DIR])
    context = AxisContext(library, ImageSpec(prompt="<lora:framed:1:lbw=ALL>", lora="framed"))

    def tags(text: str) -> None:
        for tag in parse_lora_tags(text)[1]:
            tag.format_tag()
            if tag.lbw is not None or tag.lbwe is not None:
                resolve_block_weights(tag, Presets())

    def emphasis(text: str) -> None:
        for part in dict(map(reversed, parse_prompt_editing(text, PassSteps(20)))):  # each text once, as it is encoded
            for one, _ in parse_and_prompts(part):
                parse_emphasis(one)

    def axis(text: str) -> None:
        for value in parse_axis(text, context).values[:20]:
            value.edit(context.image_spec)

    axes = [kind.example.encode() for kind in AXIS_KINDS.values()]
    return [
        _of_text("tags of a prompt", tags, TAGS, weight=2),
        _of_text("prompt of a picture", emphasis, PROMPT, weight=1.5),
        _of_text("regions of a prompt", split_by_region, PROMPT, TAGS, weight=0.4),
        _of_text("AND parts", split_prompt_parts, PROMPT, TAGS),
        _of_text("axis of a sheet", axis, *axes, weight=0.5),
        _of_text("kohya's prompt line", parse_prompt_line, LINE),
        _of_text("infotext", lambda text: restore_block_weights(as_text(TAGS), text, Presets()),
                 b"a: 1,0; a: - IN05:attn:0; b: 1;0@0,1;1@1", weight=0.05),
    ]  # fmt: skip


def _value_targets() -> list[Target]:
    def curves(text: str) -> None:
        parse_weight(text, "weight")
        parse_curve(text)

    return [
        _of_text(
            "block weights", parse_block_weights, b"1,0,0,0,1,1,1,1,1,1,1,1,0.5,0.5,0.5,R,U", b"OUTALL", b"[1, 0]"
        ),
        _of_text("element rules", parse_element_rules, b"IN05 OUT03:attn proj:0.5,NOT MID:ff:0", b"IN01-IN05:attn1:1"),
        _of_text("presets", parse_block_presets, b"MINE:1,0,0,0,1,1,1,1,1,1,1,1,1,1,1,1,1\n# x\nB:0,1"),
        _of_text("curve of weights", curves, b"0@0,1@0.5 cosine,0@1", b"1@s14,0@s0.1", b"0.5"),
        _of_text("place of a region", parse_region, b"left half", b"0-0.5;0-1", b"top col 1/3", b"center"),
        _of_text("composition", parse_composition, b"switch 2", b"composite", b"sum"),
        _of_text("hashes", parse_hashes, b"one: 0123456789ab, two: abcdef"),
        _of_text(
            "optimizer's settings", lambda text: parse_optimizer_args([text]), b"betas=(0.9, 0.99)", b"a=[1,None]"
        ),
    ]


def _settings_targets(folder: Path) -> list[Target]:
    def settings(text: str) -> None:
        found = _json_object(text)
        recipe_to_toml(recipe_from_settings(found))

    def metadata(text: str) -> None:
        found = {str(key): value for key, value in _json_object(text).items() if isinstance(value, str)}
        settings_from_metadata(found)
        top_tags(found)
        parse_peft_metadata(found)

    def adapter_config(path: Path) -> None:
        config = load_adapter_config(path)[0]
        if config is not None:
            config.scaled(layer, "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0")

    layer = Lora({"lora_up.weight": torch.ones(4, 1), "lora_down.weight": torch.ones(1, 4)})
    sound = (
        b'{"network_dim": 8, "learning_rate": 0.1, "network_args": ["conv_dim=4"], "resolution": "64,64", "seed": 1}'
    )
    (folder / "pictures").mkdir()
    return [
        _of_text("settings of training", settings, sound, weight=0.5),
        _of_text("metadata of a LoRA", metadata, METADATA, weight=0.4),
        _of_file("config file", folder / "a.toml", settings_from_config_file, TOML),
        _of_file("kohya GUI's file", folder / "a.json", settings_from_config_file, GUI, weight=0.3),
        _of_file("dataset file", folder / "b.toml", lambda path: load_dataset_toml(path, Recipe(), str), DATASET),
        _of_file("adapter_config.json", folder / "adapter_config.json", adapter_config, PEFT),
        _of_file("model's YAML", folder / "a.yaml", load_ldm_config,
                 b"model:\n  params:\n    parameterization: v\n    list: [1, 2]\n    timesteps: 1000\n", weight=0.3),
    ]  # fmt: skip


def _list_targets(folder: Path) -> list[Target]:
    defaults = SampleSpec("")
    samples = b'[{"prompt": "a", "width": 64, "seed": 1, "sample_steps": 4, "scale": 7.5}]'
    pictures = folder / "pictures"

    def captions(path: Path) -> None:
        load_caption_list(path, pictures)

    (pictures / "a.png").write_bytes(b"")
    state = folder / f"run{STATE_FOLDER_SUFFIX}"
    return [
        _of_file("prompt file, text", folder / "p.txt", lambda path: load_sample_prompts(path, defaults), LINE),
        _of_file("prompt file, JSON", folder / "p.json", lambda path: load_sample_prompts(path, defaults), samples),
        _of_file("prompt file, TOML", folder / "p.toml", lambda path: load_sample_prompts(path, defaults),
                 b'[prompt]\nwidth = 64\n[[prompt.subset]]\nprompt = "a"\nscale = 7.5\n'),
        _of_file("caption", folder / "c.txt", load_caption_text, "a cat, 漢".encode(), b"\xff\xfea\0"),
        _of_file("captions, JSON lines", pictures / "metadata.jsonl", captions, b'{"file_name": "a.png", "text": "x"}\n'),
        _of_file("captions, CSV", pictures / "metadata.csv", captions, b'file_name,text\na.png,"x, y"\n'),
        _of_file("captions, kohya's JSON", folder / "m.json", captions, b'{"a": {"caption": "x", "tags": "y"}}'),
        _of_file("sheet.json", folder / "sheet.json", lambda path: load_manifest(path.parent), SHEET),
        _of_file("history of jobs", folder / "jobs.json", lambda path: JobHistory(path, 10).load(), b'{"id": 1}\n[{}]'),
        _of_file("preset file", folder / "presets.txt", load_preset_file, b"A:1,0\n", "é:1".encode("utf-16")),
        _of_file("state, numbers", state / STATE_NUMBERS_NAME, lambda path: find_training_state(folder), STATE),
    ]  # fmt: skip


def _json_object(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}
