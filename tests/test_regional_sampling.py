"""Regions by separate prediction: the laws, on a small checkpoint with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_generate import folder, pixels, settings

from lora_ext.compare.image_spec import ImageSpec
from lora_ext.errors import FitError
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.generate import GenerationReport, generate, load_settings_model
from lora_ext.generate import pipeline as generation
from lora_ext.generate.image_renderer import StandaloneImageRenderer
from lora_ext.host.standalone import regional_sampling
from lora_ext.host.standalone.loader import StandaloneModel
from lora_ext.inject.live_layer import LIVE_LAYERS

__all__ = ["folder"]
TE = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


@pytest.fixture(scope="module")
def model(folder: Path) -> StandaloneModel:
    """The small checkpoint, beside a second LoRA file that changes the text encoder too."""
    found = load_settings_model(settings(folder))
    torch.manual_seed(1)
    width = found.text_encoders[0].module.config.hidden_size
    layers = {TE: (width, width), "lora_unet_up_blocks_3_attentions_0_transformer_blocks_0_attn1_to_v": (32, 32)}
    tensors: dict[str, torch.Tensor] = {}
    for name, (out, inner) in layers.items():
        tensors |= {f"{name}.lora_down.weight": torch.randn(2, inner), f"{name}.lora_up.weight": torch.randn(out, 2)}
    save_file(tensors, folder / "loras" / "other.safetensors")
    return found


def _draw(folder: Path, model: StandaloneModel, prompt: str, **changes: object) -> np.ndarray:
    """The pictures of a prompt, one after the other; nothing of ours is left on the model."""
    report = GenerationReport()
    images = generate(settings(folder, prompt=prompt, **changes), model=model, report=report)
    assert not [note for note in report.notes if "skipped" in note] and len(LIVE_LAYERS) == 0
    return np.stack([pixels(image) for image in images])


def test_a_region_over_everything_equals_no_region(folder: Path, model: StandaloneModel) -> None:
    for mode in ("live", "auto"):
        everywhere = _draw(folder, model, "a b <lora:other:1>", mode=mode)
        assert np.array_equal(_draw(folder, model, "a b <lora:other:1:at=0-1;0-1>", mode=mode), everywhere)
    assert not np.array_equal(everywhere, _draw(folder, model, "a b"))


def test_regions_in_either_order_are_equal_bit_for_bit(folder: Path, model: StandaloneModel) -> None:
    one = _draw(folder, model, "a b <lora:strong:1:at=left:feather=0.2><lora:other:1:at=top>")
    other = _draw(folder, model, "a b <lora:other:1:at=top><lora:strong:1:at=left:feather=0.2>")
    assert np.array_equal(one, other)


def _latents(
    model: StandaloneModel, folder: Path, monkeypatch: pytest.MonkeyPatch, prompt: str, **changes: object
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(noisy latent, denoised) of each U-Net call."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = generation.generate_images

    def watched(model, job, before_call, before_hires):  # type: ignore[no-untyped-def]
        from lora_ext.host.standalone.rendering import sample_latents, to_pil_images

        latent = sample_latents(
            model, job, before_call, lambda x, _, denoised: seen.append((x.clone(), denoised.clone())), before_hires
        )
        return to_pil_images(latent[:, :3].clamp(0, 1))

    monkeypatch.setattr(generation, "generate_images", watched)
    generate(settings(folder, prompt=prompt, **changes), model=model)
    monkeypatch.setattr(generation, "generate_images", real)
    return seen


def test_row_gains_equal_separate_runs(folder: Path, model: StandaloneModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first U-Net call, each half is what the LoRA of that half alone predicts from the same noise."""
    options = {"steps": 1, "batch": 2, "sampler": "Euler"}
    both = _latents(model, folder, monkeypatch, "a b<lora:strong:1:at=left><lora:other:1:at=right>", **options)
    left = _latents(model, folder, monkeypatch, "a b<lora:strong:1>", mode="live", **options)
    right = _latents(model, folder, monkeypatch, "a b<lora:other:1>", mode="live", **options)
    width = both[0][1].shape[-1] // 2
    torch.testing.assert_close(both[0][1][..., :width], left[0][1][..., :width], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(both[0][1][..., width:], right[0][1][..., width:], atol=1e-3, rtol=1e-3)
    assert (both[0][1] - left[0][1])[..., width:].abs().max() > 0.05, "the halves differ"


def test_zero_weight_in_a_region_is_no_lora(folder: Path, model: StandaloneModel) -> None:
    plain = _draw(folder, model, "a b")
    assert np.array_equal(_draw(folder, model, "a b<lora:strong:0:at=0-1;0-1>"), plain)
    assert np.abs(_draw(folder, model, "a b<lora:strong:0:at=left>") - plain).max() <= 1


def test_a_batch_that_is_computed_in_parts_is_the_same(
    folder: Path, model: StandaloneModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of other lengths are calls of their own, and so are parts where memory runs out."""
    prompt = "a<lora:strong:1> ADDCOL b<lora:other:1>"
    whole = _draw(folder, model, prompt, batch=2)
    sizes: list[int] = []
    real = regional_sampling.RegionalDenoiser._call_unet

    def small(self, x, t, condition):  # type: ignore[no-untyped-def]
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(self, x, t, condition)

    monkeypatch.setattr(regional_sampling.RegionalDenoiser, "_call_unet", small)
    assert np.abs(_draw(folder, model, prompt, batch=2) - whole).max() <= 1
    assert sizes == [8, 4, 2, 2, 2, 2] + [2] * 4
    monkeypatch.setattr(regional_sampling.RegionalDenoiser, "_call_unet", real)
    long = "a<lora:strong:1> ADDCOL b BREAK b<lora:other:1>"
    one = _draw(folder, model, long)
    assert not np.array_equal(one, whole[:1])
    assert np.abs(_draw(folder, model, long, batch=2)[:1] - one).max() <= 1


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [{"sampler": "DDIM"}, {"sampler": "Heun"}, {"hr_scale": 1.5}, {"cfg": 1.0}],
    ids=["ddim", "heun", "hires", "no guidance"],
)
def test_samplers_and_passes(folder: Path, model: StandaloneModel, changes: dict[str, object]) -> None:
    """A schedule that never acts in a region leaves the picture without the LoRA, whatever the sampler."""
    plain, drawn, curve, never = (
        _draw(folder, model, f"a b{tag}", **changes)
        for tag in ("", "<lora:strong:1:at=left>", "<lora:strong:0@0,1@1:at=left>", "<lora:strong:1:at=left:stop=0>")
    )
    assert not np.array_equal(drawn, plain) and not np.array_equal(drawn, curve)
    assert np.abs(never - plain).max() <= 1


def test_img2img_and_texts_joined_by_and(folder: Path, model: StandaloneModel, tmp_path: Path) -> None:
    start = tmp_path / "start.png"
    Image.new("RGB", (64, 64), "orange").save(start)
    options = {"init_image": start, "strength": 0.6, "steps": 3}
    assert not np.array_equal(
        _draw(folder, model, "a AND b :0.5<lora:strong:1:at=left>", **options),
        _draw(folder, model, "a AND b :0.5", **options),
    )
    report = GenerationReport()
    with pytest.raises(Exception, match="equally many texts"):
        generate(settings(folder, prompt="a AND b ADDCOL c"), model=model, report=report)


def test_a_bad_region_disables_its_own_tag_only(folder: Path, model: StandaloneModel) -> None:
    report = GenerationReport()
    images = generate(settings(folder, prompt="a b<lora:other:1><lora:strong:1:at=lefft>"), model=model, report=report)
    assert np.array_equal(pixels(images[0]), _draw(folder, model, "a b<lora:other:1>")[0])
    assert len(report.notes) == 1 and "'lefft'" in report.notes[0]


def test_baked_is_refused_and_an_exception_leaves_nothing(
    folder: Path, model: StandaloneModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "a b<lora:strong:1:at=left>"
    with pytest.raises(FitError, match="regions need"):
        generate(settings(folder, prompt=prompt, mode="baked"), model=model)
    before = {name: p for part in model.parts().values() for name, p in part.named_parameters()}
    plain = _draw(folder, model, "a b")

    def stop(step: int, total: int) -> None:
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(settings(folder, prompt=prompt), model=model, on_progress=stop)
    after = {name: p for part in model.parts().values() for name, p in part.named_parameters()}
    assert all(after[name] is p for name, p in before.items()) and len(LIVE_LAYERS) == 0
    assert np.array_equal(_draw(folder, model, "a b"), plain)


def test_cells_of_a_sheet_have_regions_too(folder: Path, model: StandaloneModel) -> None:
    prompt = "a b<lora:strong:1:at=left>"
    spec = ImageSpec(prompt=prompt, seed=3, steps=2, width=64, height=64)
    plain = ImageSpec(prompt="a b<lora:strong:1>", seed=3, steps=2, width=64, height=64)
    with StandaloneImageRenderer(settings(folder), model, LoraLibrary([folder / "loras"])) as renderer:
        everywhere = renderer.generate([plain], lambda *_: None)[0]
        cell = renderer.generate([spec], lambda *_: None)[0]
        again = renderer.generate([plain], lambda *_: None)[0]
        assert "strong" in renderer.fits
    assert np.array_equal(pixels(cell), _draw(folder, model, prompt)[0])
    assert np.array_equal(pixels(again), pixels(everywhere)) and not np.array_equal(pixels(cell), pixels(everywhere))
