"""Training a small SDXL without a web UI: two text encoders, size conditions, cached captions, kohya's names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import test_host_checkpoint as small
import torch
from PIL import Image
from tiny_trainable_model import recipe

from lora_ext.api import apply
from lora_ext.file.containers import load_tensors
from lora_ext.host.standalone.rendering import encode_prompt
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.protocols import TextConditioning
from lora_ext.training.standalone_run import train


class Watched(StandaloneTrainableModel):
    """Notes what the networks are asked."""

    read: tuple[list[Sequence[str]], list[Any]] = ([], [])

    def encode_text(self, captions: Sequence[str], **options: Any) -> TextConditioning:
        self.read[0].append(captions)
        return super().encode_text(captions, **options)

    def predict(self, noisy: Any, timesteps: Any, context: TextConditioning, sizes: Any = None) -> torch.Tensor:
        assert context.pooled is not None and context.pooled.shape == (len(noisy), 48)
        self.read[1].append(sizes.tolist())
        return super().predict(noisy, timesteps, context, sizes)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    host = Watched(small.read(small.write(tmp_path, "SDXL")))
    host.read[0].clear()
    host.read[1].clear()
    return host


def pictures(folder: Path) -> Path:
    """Three pictures larger than what is trained, each with a caption of its own length."""
    where = folder / "1_thing"
    where.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (160, 96), (90 * number, 40, 200)).save(where / f"{number}.png")
        (where / f"{number}.txt").write_text("a" * (number + 1), encoding="utf-8")
    return folder


@pytest.mark.long
def test_cached_captions_are_read_once(watched: Watched, tmp_path: Path) -> None:
    made = recipe(pictures(tmp_path / "data"), tmp_path / "out", network_train_unet_only=True, max_train_epochs=3,
                  cache_text_encoder_outputs=True, train_batch_size=1)  # fmt: skip
    outcome = train(made, model=watched)
    assert outcome.steps == 9 and sorted(c for (c,) in watched.read[0]) == ["a", "aa", "aaa"]
    # original height and width, the cut's top and left in the scaled picture (64 of 107 wide), the bucket's size
    assert watched.read[1] == [[[96, 160, 0, 21, 64, 64]]] * 9
    tensors, metadata, *_ = load_tensors(outcome.file)
    assert {key.split("_")[1] for key in tensors} == {"unet"}
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in tensors
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


@pytest.mark.long
def test_both_text_encoders_learn_and_are_named_as_kohya_names_them(watched: Watched, tmp_path: Path) -> None:
    made = recipe(pictures(tmp_path / "data"), tmp_path / "out", train_batch_size=3, max_train_epochs=2)
    outcome = train(made, model=watched)
    tensors, _, *_ = load_tensors(outcome.file)
    parts: dict[str, float] = {}
    for key, tensor in tensors.items():
        if key.endswith("lora_up.weight"):
            part = key.split("_")[1]
            parts[part] = max(parts.get(part, 0.0), float(tensor.abs().max()))
    assert set(parts) == {"te1", "te2", "unet"} and min(parts.values()) > 1e-3
    assert "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight" in tensors
    plain = encode_prompt(watched.model, "aa", (64, 64), 1)
    with apply(watched.model, outcome.file) as applied:
        changed = encode_prompt(watched.model, "aa", (64, 64), 1)
        assert all(fit.ok for fit in applied.fits)
    assert not torch.equal(plain.states, changed.states)
