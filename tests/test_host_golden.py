"""The standalone host against what the real web UI computed (a golden folder beside the repository)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_ext.adapter_spec import resolve_tag
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.errors import FileError
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.host.standalone.loader import StandaloneModel, load_model
from lora_ext.host.standalone.rendering import RenderJob, decode_latents, encode_prompt, sample_latents, to_pil_images
from lora_ext.host.standalone.sampling import parse_sampling_plan
from lora_ext.lora_tags import parse_lora_tags

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("LORA_EXT_GOLDEN", ROOT.parent / "shared" / "golden")) / "webui"
CASES = ("none", "lierla_0.8", "c3lier_0.8", "both_0.5_0.7")
COND, LATENT, IMAGE = 1e-5, 1.6e-3, 2e-5
"""Three times what the web UI's own two ways differ by, for another torch version."""

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is absent (LORA_EXT_GOLDEN names it)")


class WordTokenizer:
    """The golden prompt's token ids; no CLIP vocabulary is needed for them."""

    start_id, end_id, comma_id, size = 49406, 49407, 267, 49408
    ids = {"": [], "a photo of a cat": [320, 1125, 539, 320, 2368]}  # noqa: RUF012

    def encode(self, text: str) -> list[int]:
        return self.ids[text.strip()]


@pytest.fixture(scope="module")
def model() -> StandaloneModel:
    return load_model(
        GOLDEN / "tiny-sd15.safetensors",
        tokenizer=WordTokenizer(),
        text_config={"num_attention_heads": 4},
        device="cpu",
    )


@pytest.fixture(scope="module")
def library() -> LoraLibrary:
    return LoraLibrary([GOLDEN])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def far(ours: torch.Tensor, golden: np.ndarray) -> float:
    return float((ours - torch.from_numpy(golden)).abs().max())


@pytest.mark.parametrize("mode", ["live", "baked"])
@pytest.mark.parametrize("case", CASES)
def test_as_the_web_ui(model: StandaloneModel, library: LoraLibrary, case: str, mode: str) -> None:
    golden = np.load(GOLDEN / f"{case}.npz")
    asked = json.loads((GOLDEN / f"{case}.request.json").read_text())
    text, requests, errors = parse_lora_tags(asked["prompt"])
    plan = parse_sampling_plan(asked["sampler_name"], asked["scheduler"], asked["steps"])
    size = (asked["width"], asked["height"])
    job = RenderJob(text, asked["negative_prompt"], [asked["seed"]], plan, *size, asked["cfg_scale"])
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    seen: list[tuple[torch.Tensor, ...]] = []
    with AppliedNetworks(model, mode) as applied:
        fits = applied.apply([resolve_tag(request, library) for request in requests])
        cond, uncond = (
            encode_prompt(model, job.prompt, size, 1),
            encode_prompt(model, job.negative, size, 1, negative=True),
        )
        latent = sample_latents(model, job, applied.at_step, lambda *step: seen.append(step))
    picture = decode_latents(model, latent)

    assert not errors and all(fit.ok for fit in fits)
    assert far(cond.states, golden["cond"][0]) < COND
    assert far(uncond.states, golden["uncond"][0]) < COND
    assert len(seen) == asked["steps"]
    for step, (x, sigma, denoised) in enumerate(seen):
        # the last bits of a float32 power differ between processors (AVX2 and AVX-512)
        assert float(sigma) == pytest.approx(float(golden["sigma"][step, 0]), rel=1e-6)
        assert far(x, golden["x_in"][step]) < LATENT
        assert far(denoised, golden["denoised"][step]) < LATENT
    assert torch.equal(seen[0][0], torch.from_numpy(golden["x_in"][0]))  # the same noise, bit for bit
    assert far(latent, golden["latent"][0]) < LATENT
    assert far(picture, golden["image"][0]) < IMAGE
    png = np.asarray(Image.open(GOLDEN / f"{case}.png").convert("RGB"), dtype=int)
    assert np.abs(np.asarray(to_pil_images(picture)[0], dtype=int) - png).max() <= 1
    after = model.unet.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_heads_from_a_config_beside(model: StandaloneModel, tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 64, "num_attention_heads": 4}))
    for suffix in (".safetensors", ".yaml"):
        (tmp_path / f"m{suffix}").symlink_to(GOLDEN / f"tiny-sd15{suffix}")
    again = load_model(tmp_path / "m.safetensors", tokenizer=WordTokenizer(), device="cpu")
    assert again.text_encoders[0].module.config.num_attention_heads == 4
    assert again.scaling_factor == model.scaling_factor == 0.18215


def test_says_where_it_looked_for_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_ext.host.standalone.tokenizer_files.TOKENIZER_REPOSITORIES", ())
    with pytest.raises(FileError, match=r"no CLIP tokenizer .*--tokenizer DIR"):
        load_model(GOLDEN / "tiny-sd15.safetensors", device="cpu")
