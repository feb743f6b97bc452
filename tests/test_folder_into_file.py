"""A diffusers folder is written as an LDM checkpoint, which diffusers' own converters read back tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import test_host_checkpoint as small
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from makers import make
from safetensors.torch import load_file

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.adapters import adapter_from_tensors
from lora_ext.errors import ToolError
from lora_ext.file.lora_file import LoraFile
from lora_ext.layer_names import LayerId
from lora_ext.tools import merge, merge_folder_into_file
from lora_ext.tools.ldm_names import ldm_tensors
from lora_ext.tools.merge_into_checkpoint import merge_into_checkpoint

QUERY = LayerId("unet", "IN04", "attention.transformer_blocks.0.attn1.to_q")
TEXT = LayerId("te", "BASE", "layers.0.self_attn.k_proj")
FAMILIES = sorted(small.PREFIXES)


@pytest.fixture(autouse=True)
def families_by_small_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small models' text embeddings are narrower: SD1 and SD2 as wide as each other."""

    def family(locations: dict[LayerId, object]) -> str:
        return "SDXL" if any(s.part == "te2" for s in locations) else small_family[0]

    small_family = ["SD1"]
    monkeypatch.setattr(merge_folder_into_file, "checkpoint_family", family)
    monkeypatch.setattr(small, "small_family", small_family, raising=False)


def folder_of(family: str, folder: Path, prediction: str = "epsilon") -> Path:
    unet, vae, texts = small.parts_of(family)
    small.small_family[0] = family  # type: ignore[attr-defined]
    networks = {"unet": unet, "vae": vae, **dict(zip(("text_encoder", "text_encoder_2"), texts, strict=False))}
    for name, network in networks.items():
        network.save_pretrained(folder / name)
    (folder / "model_index.json").write_text("{}")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": prediction}))
    return folder


def with_unused_layer(family: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """SD2's checkpoints have one layer more than its folders, which nothing uses: a copy of the one before."""
    copies = {name.replace(".resblocks.2.", ".resblocks.3."): tensor for name, tensor in state.items()}
    return {**state, **copies} if family == "SD2" else state


def lora(weights: dict[str, torch.Size]) -> LoraFile:
    rng, adapters = np.random.default_rng(1), {}
    for layer_id, name in ((QUERY, "unet"), (TEXT, "text")):
        adapter = adapter_from_tensors(make("lora", tuple(weights[name]), 2, rng=rng))
        assert adapter is not None
        adapters[layer_id] = adapter
    return LoraFile(adapters)


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[pytest.mark.long] * (family != "SD2")) for family in FAMILIES]
)
def test_the_file_is_the_model(family: str, tmp_path: Path) -> None:
    folder, out = folder_of(family, tmp_path / "model"), tmp_path / "m.safetensors"
    report = merge_into_checkpoint(folder, [], out)
    made, meant = load_file(out), with_unused_layer(family, small.state_of(family))
    optional = {name for name in meant if family == "SD2" and name.endswith("text_projection")}
    assert made.keys() == meant.keys() - optional  # transformers' SD2 encoder has no projection
    assert all(torch.equal(made[name], meant[name]) for name in made)
    assert not list(tmp_path.glob(".*")) and "tensors" in " ".join(report.notes)
    unet, vae, texts = small.parts_of(family)
    model = small.read(out, prediction="epsilon")  # by diffusers' own converters
    assert small.same(model.unet, unet) and small.same(model.vae, vae)
    for ours, theirs in zip(model.text_encoders, texts, strict=True):
        assert small.same(ours.module, theirs)
        assert ours.module.config.num_hidden_layers == theirs.config.num_hidden_layers


@pytest.mark.parametrize(
    ("family", "suffix"),
    [
        ("SD2", ".safetensors"),
        *(pytest.param(f, s, marks=pytest.mark.long) for f, s in (("SD1", ".ckpt"), ("SDXL", ".safetensors"))),
    ],
)
def test_loras_are_added_on_the_way(family: str, suffix: str, tmp_path: Path) -> None:
    folder, out = folder_of(family, tmp_path / "model"), tmp_path / f"m{suffix}"
    unet = small.parts_of(family)[0]
    query, text = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "text_model.encoder.layers.0.self_attn"
    file = lora({"unet": unet.get_submodule(query).weight.shape, "text": torch.Size((small.WIDTH, small.WIDTH))})
    report = merge_into_checkpoint(folder, [AdapterSpec(file, 0.5, 0.5)], out, dtype=torch.float16)
    made = load_file(out) if suffix == ".safetensors" else torch.load(out, weights_only=True)["state_dict"]
    meant = dict(small.state_of(family))
    name = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
    meant[name] = meant[name] + 0.5 * file.adapters[QUERY].delta(meant[name])
    prefix, delta = small.PREFIXES[family][0], 0.5 * file.adapters[TEXT].delta(torch.zeros(small.WIDTH, small.WIDTH))
    if family == "SD2":
        stacked = f"{prefix}transformer.resblocks.0.attn.in_proj_weight"
        meant[stacked] = meant[stacked].clone()
        meant[stacked][small.WIDTH : 2 * small.WIDTH] += delta
        meant = with_unused_layer(family, meant)
    else:
        meant[f"{prefix}{text}.k_proj.weight"] = meant[f"{prefix}{text}.k_proj.weight"] + delta
    for key, tensor in made.items():
        whole = meant[key].half() if meant[key].is_floating_point() else meant[key]
        assert torch.equal(tensor, whole), key
    assert len(report.layers) == 2


def test_diffusers_reads_the_autoencoders_names() -> None:
    vae = small.small_vae()
    state = vae.state_dict()
    ldm = {row.name: row.build([state[row.sources[0]]]) for row in ldm_tensors("vae", "SD1", state)}
    back = convert_ldm_vae_checkpoint(ldm, dict(vae.config))
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    old = "encoder.mid_block.attentions.0.{}.weight"
    names = {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out", "group_norm": "norm"}
    for before, after in names.items():
        row = next(iter(ldm_tensors("vae", "SD1", [old.format(before)])))
        assert row.name == f"first_stage_model.encoder.mid.attn_1.{after}.weight"


def test_what_a_file_cannot_hold_is_told_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of("SD1", tmp_path / "model", "v_prediction")
    assert merge.main(["--sd_model", str(folder), "--save_to", str(tmp_path / "m.safetensors")]) == 0
    assert "predicts v" in capsys.readouterr().out
    with pytest.raises(ToolError, match="exists"):
        merge_into_checkpoint(folder, [], tmp_path / "m.safetensors")
    with pytest.raises(ToolError, match="no LoRA to merge"):
        merge_into_checkpoint(folder, [], tmp_path / "other")
    with pytest.raises(ToolError, match="no LoRA to merge"):
        merge_into_checkpoint(tmp_path / "m.safetensors", [], tmp_path / "again.safetensors")
    for path in (folder / "vae").iterdir():
        path.unlink()
    with pytest.raises(ToolError, match="has no vae"):
        merge_into_checkpoint(folder, [], tmp_path / "n.safetensors")
    assert not (tmp_path / "n.safetensors").exists()


UNETS = {
    "SD1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "SD2": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    "SDXL": {
        "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
"""The configurations of the published models."""


@pytest.mark.long
@pytest.mark.parametrize("family", UNETS)
def test_names_of_a_whole_unet_go_through_diffusers_conversion_and_back(family: str) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[family])
    state = unet.state_dict()
    ldm = {row.name: row.build([state[row.sources[0]]]) for row in ldm_tensors("unet", family, state)}
    back = convert_ldm_unet_checkpoint(ldm, {"class_embed_type": None, "addition_embed_type": None, **unet.config})
    assert back.keys() == state.keys() and all(back[name] is tensor for name, tensor in state.items())
