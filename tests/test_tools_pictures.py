"""What the file tools write draws what was promised: in our host, and in diffusers on its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from makers import make
from safetensors.torch import load_file, save_file

import lora_ext
from lora_ext import cli, embedded
from lora_ext.generate import Settings, generate, load_settings_model

PROMPT, NAME, RATIO = "a red circle on a blue background", "striped", 0.7
BASE = Settings(prompt=PROMPT, width=64, height=64, steps=4, seed=3, cfg=2.0, sampler="Euler")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample LoRA, which changes the U-Net alone, with layers of the text encoder."""
    tensors = load_file(embedded.LORA_DIR / f"{NAME}.safetensors")
    for name, layer in load_settings_model(BASE).text_encoders[0].module.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.startswith("text_model.encoder."):
            key = f"lora_te_{name.replace('.', '_')}"
            made = make("lora", tuple(layer.weight.shape), rank=4, layer=name)
            tensors |= {f"{key}.{suffix}": 0.1 * tensor for suffix, tensor in made.items()}
    assert any(key.startswith("lora_te_") for key in tensors)
    path = tmp_path_factory.mktemp("loras") / f"{NAME}.safetensors"
    save_file(tensors, path)
    return path


def picture(settings: Settings) -> np.ndarray:
    return np.asarray(generate(settings)[0], np.float32)


@pytest.mark.long
def test_a_merged_checkpoint_draws_what_the_file_draws_live(tmp_path: Path, lora: Path) -> None:
    merged = tmp_path / "merged.safetensors"
    words = ["merge", "--sd_model", str(embedded.CHECKPOINT), "--models", str(lora), "--ratios", str(RATIO)]
    assert cli.main([*words, "--save_precision", "float", "--save_to", str(merged)]) == 0
    live = picture(replace(BASE, prompt=f"{PROMPT} <lora:{NAME}:{RATIO}>", mode="live", lora_dir=(lora.parent,)))
    own = picture(replace(BASE, ckpt=merged, config=embedded.CONFIG, tokenizer=embedded.TOKENIZER))
    assert np.abs(live - picture(BASE)).max() > 8
    assert np.abs(live - own).max() <= 1


@pytest.mark.long
def test_a_merged_checkpoint_opens_in_diffusers(tmp_path: Path, lora: Path) -> None:
    """On its own: the merged folder, and the merged LDM file; both do what the file does live."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    model = load_settings_model(BASE)
    tokenizer = CLIPTokenizer.from_pretrained(str(embedded.TOKENIZER))
    parts = (model.vae, model.text_encoders[0].module, tokenizer, model.unet, DDIMScheduler(), None, None)
    StableDiffusionPipeline(*parts, requires_safety_checker=False).save_pretrained(tmp_path / "model")
    words = ["--models", str(lora), "--ratios", str(RATIO), "--save_precision", "float", "--save_to"]
    folder, file = tmp_path / "merged", tmp_path / "merged.safetensors"
    assert cli.main(["merge", "--sd_model", str(tmp_path / "model"), *words, str(folder)]) == 0
    assert cli.main(["merge", "--sd_model", str(embedded.CHECKPOINT), *words, str(file)]) == 0
    x, ids = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0)), torch.arange(77)[None] % 50

    def drawn(text: torch.nn.Module, unet: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return unet(x, 500, text(ids)[0]).sample

    plain = drawn(model.text_encoders[0].module, model.unet)
    with lora_ext.apply(model, {lora: RATIO}):
        live = drawn(model.text_encoders[0].module, model.unet)
    options = {"safety_checker": None, "local_files_only": True}
    for pipe in (
        StableDiffusionPipeline.from_pretrained(folder, **options),
        StableDiffusionPipeline.from_single_file(str(file), config=str(tmp_path / "model"), **options),
    ):
        assert not torch.allclose(live, plain, atol=1e-2)
        assert torch.allclose(drawn(pipe.text_encoder, pipe.unet), live, atol=2e-4)


RESULTS = [["resize", "--new_rank", "2"], ["svd-merge", "--new_rank", "2"], ["merge"], ["convert", "--to", "diffusers"]]


@pytest.mark.long
@pytest.mark.parametrize("verb", RESULTS)
def test_results_load_in_diffusers(tmp_path: Path, lora: Path, verb: list[str]) -> None:
    pytest.importorskip("peft", reason="diffusers needs peft to load a LoRA")
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    out, given = tmp_path / "out.safetensors", "--models" if "merge" in verb[0] else "--model"
    assert cli.main([verb[0], given, str(lora), *verb[1:], "--save_to", str(out)]) == 0
    model = load_settings_model(BASE)
    x, ids = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0)), torch.arange(77)[None] % 50

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            states = model.text_encoders[0].module(ids)[0]
            return states, model.unet(x, 500, states).sample

    with lora_ext.apply(model, {out: RATIO}):
        ours = both()
    parts = (model.vae, model.text_encoders[0].module, None, model.unet, DDIMScheduler(), None, None)
    pipe = StableDiffusionPipeline(*parts, requires_safety_checker=False)
    before = both()
    pipe.load_lora_weights(load_file(out), adapter_name="a")
    pipe.set_adapters("a", RATIO)
    for mine, theirs, plain in zip(ours, both(), before, strict=True):
        assert not torch.allclose(mine, plain, atol=1e-3)
        assert torch.allclose(mine, theirs, atol=2e-4)
