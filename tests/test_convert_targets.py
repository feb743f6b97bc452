"""`convert --to comfyui`, and `--bake`: layers that a program cannot read become the nearest LoRA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from makers import SHAPES, make
from safetensors.torch import save_file

from lora_ext.adapters import ADAPTER_SUFFIXES, Adapter, adapter_from_tensors
from lora_ext.errors import ToolError
from lora_ext.file.loading import load_lora_file
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.saving import save_lora_file
from lora_ext.layer_keys import format_comfyui_key, parse_layer_key
from lora_ext.layer_names import PARTS, LayerId, layer_name_table
from lora_ext.tools import convert
from lora_ext.tools.convert import convert_lora

QUERY = LayerId("unet", "IN01", "attention.transformer_blocks.0.attn1.to_q")
KEY = LayerId("unet", "MID", "attention.transformer_blocks.0.attn1.to_k")
TEXT = LayerId("te", "BASE", "layers.0.mlp.fc1")
NORM = LayerId("unet", "MID", "attention.transformer_blocks.0.norm1")


def adapter(kind: str, shape: tuple[int, ...], seed: int = 0) -> Adapter:
    made = adapter_from_tensors(make(kind, shape, 3, rng=np.random.default_rng(seed)))
    assert made is not None
    return made


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_comfyuis_names_of_all_layers_are_different_and_read_again(family: str) -> None:
    ids = [layer_id for part in PARTS for layer_id in layer_name_table(part).diffusers]
    keys = {format_comfyui_key(layer_id, family): layer_id for layer_id in ids}
    assert len(keys) == len(ids)
    for key, layer_id in keys.items():
        assert parse_layer_key(f"{key}.lora_up.weight", ADAPTER_SUFFIXES) == (layer_id, "lora_up.weight")
    clip = {"SD2": "clip_h"}.get(family, "clip_l")
    assert f"text_encoders.{clip}.transformer.text_model.encoder.layers.0.mlp.fc1" in keys
    at = "diffusion_model.output_blocks.2.{}.conv".format("2" if family == "SDXL" else "1")
    assert keys[at] == LayerId("unet", "OUT02", "sampler.conv")


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "glora", "full", "lora-dora-out"])
def test_what_comfyui_reads_is_the_same_file(kind: str, tmp_path: Path) -> None:
    square = SHAPES["square"]
    layers = {QUERY: adapter(kind, square, 1), TEXT: adapter("lora", square, 2), NORM: adapter("norm", SHAPES["norm"])}
    made, report = convert_lora(LoraFile(layers, {"ss_v2": "False"}), "comfyui")
    read = load_lora_file(save_lora_file(made, tmp_path / "c.safetensors"))
    assert read.adapters.keys() == layers.keys() and len(report.notes) == ("dora" in kind)
    for layer_id, before in layers.items():
        weight = torch.randn(SHAPES["norm"] if layer_id == NORM else square, generator=torch.manual_seed(3))
        assert torch.allclose(read.adapters[layer_id].delta(weight), before.delta(weight), atol=1e-6)
    back, _ = convert_lora(read, "kohya")
    assert {key.partition("_")[0] for key in back.keys.values()} == {"lora"}


def base_model(path: Path, weights: dict[LayerId, torch.Tensor]) -> Path:
    names = {QUERY: "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
             KEY: "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_k.weight"}  # fmt: skip
    save_file({names[layer_id]: weight for layer_id, weight in weights.items()}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "to"), [("ia3-in", "comfyui"), ("oft-lycoris", "diffusers"), ("lora-dora-in", "kohya")]
)
def test_bake_is_the_nearest_lora_and_says_the_loss(kind: str, to: str, tmp_path: Path) -> None:
    square = SHAPES["square"]
    weights = {QUERY: torch.randn(square, generator=torch.manual_seed(1)), KEY: torch.ones(square)}
    file = LoraFile({QUERY: adapter(kind, square, 1), KEY: adapter("lora", square, 2), NORM: adapter("norm", (16,))})
    if to != "kohya":
        with pytest.raises(ToolError, match=r"1 of 3 layers.*--bake"):
            convert_lora(file, to)
    with pytest.raises(ToolError, match="base model's weights; name the base model: --sd_model"):
        convert_lora(file, to, 2, bake=True)
    base = base_model(tmp_path / "base.safetensors", weights)
    made, report = convert_lora(file, to, 2, bake=True, base=base)
    delta = file.adapters[QUERY].delta(weights[QUERY])
    values = torch.linalg.svdvals(delta)
    assert float((made.adapters[QUERY].delta(delta) - delta).norm()) == pytest.approx(
        float(values[2:].norm()), rel=1e-4
    )
    row = next(row for row in report.layers if row.name == str(QUERY))
    assert row.kept == pytest.approx(float(values[:2].norm() / values.norm()), abs=1e-5)
    assert f"{row.kept:.2%} of the norm" in " ".join(report.notes)
    assert torch.allclose(made.adapters[KEY].delta(delta), file.adapters[KEY].delta(delta), atol=1e-6)
    assert (NORM in made.adapters) == (to == "comfyui") and bool(report.left_out) == (to != "comfyui")


def test_bake_where_all_can_be_read_changes_nothing() -> None:
    file = LoraFile({QUERY: adapter("lora", (12, 12))})
    made, report = convert_lora(file, "comfyui", bake=True)
    assert made.adapters[QUERY].rank == 3 and any("changes nothing" in note for note in report.notes)


def test_the_magnitude_of_a_peft_dora_gets_the_axes_of_the_weight() -> None:
    tensors = dict(adapter("lora-dora-out", (16, 12)).tensors)
    tensors["lora_magnitude_vector"] = tensors.pop("dora_scale").flatten()
    peft = adapter_from_tensors(tensors)
    assert peft is not None
    weight = torch.randn(16, 12, generator=torch.manual_seed(5))
    for to in ("kohya", "comfyui", "diffusers"):
        made = convert_lora(LoraFile({QUERY: peft}), to)[0].adapters[QUERY]
        assert torch.allclose(made.delta(weight), peft.delta(weight), atol=1e-6)
        assert to == "diffusers" or made.tensors["dora_scale"].shape == (16, 1)


def test_a_base_model_without_bake_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = save_lora_file(LoraFile({QUERY: adapter("lora", (12, 12))}), tmp_path / "a.safetensors")
    words = ["--model", str(path), "--sd_model", "x", "--save_to", str(tmp_path / "b.safetensors")]
    with pytest.raises(ToolError, match="give both"):
        convert.main(words)


@pytest.mark.parametrize(
    ("kind", "to", "told"),
    [("lora-dora-out", "comfyui", "norm of W instead"), ("lora-dora-out", "diffusers", "inside the norm"),
     ("lora-dora-in", "kohya", "LyCORIS 4.1 cannot"), ("oft-kohya", "comfyui", "times m²"),
     ("boft", "kohya", "each factor"), ("loha", "kohya", ""), ("lora", "diffusers", "")],
)  # fmt: skip
def test_what_programs_do_otherwise_is_told(kind: str, to: str, told: str) -> None:
    _, report = convert_lora(LoraFile({QUERY: adapter(kind, (12, 8))}), to)
    assert (told in " ".join(report.notes)) if told else not report.notes
