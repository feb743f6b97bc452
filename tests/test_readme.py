"""The Python examples of docs/python.md run, on a real diffusers pipeline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from tiny import Tiny, lora_file
from transformers import CLIPTokenizer

import lora_ext

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    """A pipeline of tiny random networks."""
    tiny = Tiny()
    tokenizer = CLIPTokenizer.from_pretrained(str(ROOT / "lora_ext" / "embedded" / "tokenizer"))
    tiny.text_encoder.resize_token_embeddings(len(tokenizer))
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    pipe = StableDiffusionPipeline(
        vae.eval(), tiny.text_encoder, tokenizer, tiny.unet, scheduler, None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.long
def test_the_examples_of_the_page(
    pipe: StableDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    on_a_pipeline, on_files = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    tiny = Tiny()
    for seed, name in enumerate(("a", "b", "mine")):
        lora_ext.write(lora_file(tiny, seed=seed, std=0.3), tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    before = {name: p.clone() for name, p in pipe.unet.named_parameters()}
    exec(compile(on_a_pipeline, "docs/python.md", "exec"), {"pipe": pipe})
    changed = [name for name, p in pipe.unet.named_parameters() if not torch.equal(p, before[name])]
    assert any("attn1" in name for name in changed)  # the example ends with a permanent merge
    for name, parameter in pipe.unet.named_parameters():
        parameter.data.copy_(before[name])
    exec(compile(on_files, "docs/python.md", "exec"), {})
    assert Path("mine-r4.safetensors").is_file()


@pytest.mark.long
def test_schedules_follow_the_pipeline_s_steps(pipe: StableDiffusionPipeline) -> None:
    file = lora_file(Tiny(), std=0.3)

    def draw(**words: object) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        with lora_ext.apply(pipe, {file: {"te": 0.0, "unet": 1.0, **words}}) as lora:
            return pipe(
                "a cat",
                num_inference_steps=4,
                height=64,
                width=64,
                generator=generator,
                output_type="latent",
                callback_on_step_end=lora.on_step_end,
            ).images

    never, always = draw(unet=0.0), draw()
    assert torch.equal(draw(start=4), never)
    assert torch.allclose(draw(stop=1.0), always, atol=1e-4)
    late = draw(start=2)
    assert not torch.allclose(late, always, atol=1e-3) and not torch.allclose(late, never, atol=1e-3)
    assert torch.allclose(draw(start=0.5), late, atol=1e-4)
