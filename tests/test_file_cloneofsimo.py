"""Layers that only have numbers: the order is that of real models, walked as cloneofsimo/lora walks them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lora_ext.errors import FileError
from lora_ext.file import cloneofsimo, load_lora_file, save_lora_file
from lora_ext.file.safetensors_file import load_safetensors as read_safetensors
from lora_ext.file.saving import save_safetensors
from lora_ext.layer_names import TE, UNET, LayerId, find_layer_id

RANK = 2


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    """SD's four levels with few channels, with today's order inside a transformer block: attn1, attn2, ff."""
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel(
            block_out_channels=(8, 16, 24, 24), norm_num_groups=4, cross_attention_dim=12, attention_head_dim=4
        )


@pytest.fixture(scope="module")
def old_unet(unet: nn.Module) -> nn.Module:
    """The same as diffusers 0.11 registers it: attn1, ff, attn2."""
    import copy

    unet = copy.deepcopy(unet)
    for module in unet.modules():
        if type(module).__name__ == "BasicTransformerBlock":
            for name in ("ff", "attn2"):
                module._modules[name] = module._modules.pop(name)
    return unet


@pytest.fixture(scope="module")
def text() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        return transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                hidden_size=12,
                intermediate_size=20,
                num_hidden_layers=3,
                num_attention_heads=2,
                attn_implementation="eager",  # else transformers 4.44 names the class CLIPSdpaAttention
            )
        )


def walk(model: nn.Module, classes: set[str], kinds: tuple[type, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Layers below modules of the classes, in order of registration: what `_find_modules_v2` yields."""
    for root, ancestor in model.named_modules():
        if type(ancestor).__name__ in classes:
            yield from ((f"{root}.{name}", m) for name, m in ancestor.named_modules() if isinstance(m, kinds))


def pairs_of(layers: list[tuple[str, nn.Module]], part: str) -> list[tuple[LayerId, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for name, layer in layers:
        weight: Any = layer.weight
        layer_id = find_layer_id(part, name)
        assert layer_id is not None, name
        ones = [1] * (weight.dim() - 2)
        up = torch.randn(weight.shape[0], RANK, *ones, generator=generator).half()
        down = torch.randn(RANK, *weight.shape[1:], generator=generator).half()
        rows.append((layer_id, up, down))
    return rows


def flat(rows: list[tuple[LayerId, Tensor, Tensor]]) -> list[Tensor]:
    return [tensor for _, up, down in rows for tensor in (up, down)]


def check(file: Any, rows: list[tuple[LayerId, Tensor, Tensor]]) -> None:
    for layer_id, up, down in rows:
        assert torch.equal(file.adapters[layer_id].tensors["lora_up.weight"], up)
        assert torch.equal(file.adapters[layer_id].tensors["lora_down.weight"], down)
        assert file.adapters[layer_id].scaling() == 1


def layers_of(model: nn.Module, extended: bool) -> list[tuple[str, nn.Module]]:
    kinds = (nn.Linear, nn.Conv2d) if extended else (nn.Linear,)
    return list(
        walk(model, set(cloneofsimo.EXTENDED_TARGET_CLASSES if extended else cloneofsimo.DEFAULT_TARGET_CLASSES), kinds)
    )


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("which", ["unet", "old_unet"])
def test_lists(which: str, extended: bool, text: nn.Module, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rows = pairs_of(layers_of(request.getfixturevalue(which), extended), UNET)
    assert len(rows) == (224 if extended else 144)
    texts = pairs_of(list(walk(text, {"CLIPAttention"}, (nn.Linear,))), TE)
    assert len(texts) == 12
    path = tmp_path / "my.lora.pt"
    torch.save(flat(rows), path)
    torch.save(flat(texts), tmp_path / "my.lora.text_encoder.pt")
    torch.save({"<s1>": torch.randn(12), "<s2>": torch.randn(12)}, tmp_path / "my.lora.ti.pt")
    file = load_lora_file(path)
    assert len(file.adapters) == len(rows) + len(texts)
    check(file, rows + texts)
    assert {name: tuple(v["emb_params"].shape) for name, v in file.embeddings.items()} == {
        "<s1>": (1, 12),
        "<s2>": (1, 12),
    }
    check(load_lora_file(tmp_path / "my.lora.text_encoder.pt"), texts)
    assert list(load_lora_file(tmp_path / "my.lora.ti.pt").embeddings) == ["<s1>", "<s2>"]
    again = load_lora_file(save_lora_file(file, tmp_path / "out.safetensors"))
    assert again.key_format == "kohya"
    assert not again.unrecognized
    check(again, rows + texts)
    assert again.embeddings.keys() == file.embeddings.keys()


@pytest.mark.parametrize("extended", [False, True])
def test_named_files(extended: bool, old_unet: nn.Module, text: nn.Module, tmp_path: Path) -> None:
    rows = pairs_of(layers_of(old_unet, extended), UNET)
    texts = pairs_of(list(walk(text, {"CLIPAttention"}, (nn.Linear,))), TE)
    assert len(texts) == 12
    tensors, metadata = {"<s1>": torch.randn(12)}, {"<s1>": "<embed>"}
    for name, part, classes in (
        ("unet", rows, cloneofsimo.EXTENDED_TARGET_CLASSES if extended else cloneofsimo.DEFAULT_TARGET_CLASSES),
        ("text_encoder", texts, cloneofsimo.TEXT_TARGET_CLASSES),
    ):
        metadata[name] = json.dumps(sorted(classes))
        for i, (_, up, down) in enumerate(part):
            tensors |= {f"{name}:{i}:up": up, f"{name}:{i}:down": down}
            metadata[f"{name}:{i}:rank"] = str(RANK)
    path = save_safetensors(tensors, tmp_path / "a.safetensors", metadata=metadata)
    file = load_lora_file(path)
    assert file.key_format == "cloneofsimo"
    assert len(file.adapters) == len(rows) + len(texts)
    check(file, rows + texts)
    assert list(file.embeddings) == ["<s1>"]
    out = save_lora_file(file, tmp_path / "b.safetensors")
    assert read_safetensors(out)[1] == metadata
    assert out.read_bytes() == path.read_bytes()
    kohya = load_lora_file(save_lora_file(file, tmp_path / "c.safetensors", key_format="kohya", metadata={}))
    check(kohya, rows + texts)
    assert list(kohya.embeddings) == ["<s1>"]


def test_attention_alone(unet: nn.Module, tmp_path: Path) -> None:
    rows = pairs_of(list(walk(unet, {"Attention"}, (nn.Linear,))), UNET)
    path = tmp_path / "a.pt"
    torch.save(flat(rows), path)
    check(load_lora_file(path), rows)


def test_what_does_not_fit_is_refused(old_unet: nn.Module, tmp_path: Path) -> None:
    rows = pairs_of(layers_of(old_unet, False), UNET)
    path = tmp_path / "a.pt"

    def refused(tensors: Any, match: str) -> None:
        torch.save(tensors, path)
        with pytest.raises(FileError, match=match) as caught:
            load_lora_file(path)
        assert str(path) in str(caught.value)

    refused(flat(rows)[:-1], "does not consist of pairs")
    refused(flat(rows)[:-2], r"143 numbered unet layers; accepted are 128 or 144 or \d+")
    refused(flat(rows[1:] + rows[:1]), "match no known order: layer")
    refused([t.T for t in flat(rows)], "factors of shapes")
    refused([t[0] for t in flat(rows)], "factors of shapes")
    refused([1, 2], "something other than tensors")
    refused([], "holds an empty list")


def test_numbered_keys_that_lie(tmp_path: Path) -> None:
    up, down = torch.ones(8, 2), torch.ones(2, 8)
    for tensors, metadata, match in (
        ({"unet:0:up": up}, {}, "layer 0 of unet lacks down"),
        ({"unet:1:up": up, "unet:1:down": down}, {}, "layer 0 of unet lacks down and up"),
        (
            {"unet:0:up": up, "unet:0:down": down},
            {"unet": '["Wonder"]'},
            "classes Wonder; accepted are",
        ),
        ({"unet:0:up": up, "unet:0:down": down}, {"unet": "{"}, "has no list of target classes"),
        ({"unet:0:up": up, "unet:00:up": up}, {}, "are the same layer"),
    ):
        path = save_safetensors(tensors, tmp_path / "a.safetensors", metadata=metadata, overwrite=True)
        with pytest.raises(FileError, match=match) as caught:
            load_lora_file(path)
        assert str(path) in str(caught.value)
