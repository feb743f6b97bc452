"""A checkpoint file is written as a diffusers folder: the same tensors there and back, and diffusers draws with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import test_host_checkpoint as small
import torch
from safetensors.torch import load_file, save_file
from test_folder_into_file import QUERY, TEXT, families_by_small_widths, folder_of, lora

from lora_ext import embedded
from lora_ext.adapter_spec import AdapterSpec
from lora_ext.errors import FileError, ToolError
from lora_ext.host.standalone import merge_command
from lora_ext.host.standalone.folder_of_checkpoint import write_checkpoint_as_folder
from lora_ext.host.standalone.loader import load_model
from lora_ext.host.standalone.rendering import RenderJob, sample_latents
from lora_ext.host.standalone.sampling import parse_sampling_plan
from lora_ext.tools.merge_into_checkpoint import merge_into_checkpoint

__all__ = ["families_by_small_widths"]  # a fixture of every test here

FAMILIES = sorted(small.PREFIXES)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A tokenizer beside the checkpoints of a test."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    pieces = ["!", "a", "b", ",", "a</w>", "b</w>", ",</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}/{name}": t
        for path in folder.glob("*/*.safetensors")
        for name, t in load_file(path).items()
    }


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_folder_file_folder_and_file_folder_file(family: str, tmp_path: Path, words: Path) -> None:
    folder, file, again = folder_of(family, tmp_path / "model"), tmp_path / "m.safetensors", tmp_path / "again"
    merge_into_checkpoint(folder, [], file)
    report = merge_into_checkpoint(file, [], again, folder_writer=write_checkpoint_as_folder)
    assert equal(tensors_of(again), tensors_of(folder)) and len(tensors_of(folder)) > 500
    assert f"tensors of {family}" in " ".join(report.notes)
    small.small_family[0] = family  # type: ignore[attr-defined]
    merge_into_checkpoint(again, [], tmp_path / "m2.safetensors")
    assert equal(load_file(tmp_path / "m2.safetensors"), load_file(file)) and not list(tmp_path.glob(".*"))


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_loras_are_added_on_the_way_to_a_folder(family: str, tmp_path: Path, words: Path) -> None:
    """The same as into a file first; also for OpenCLIP's stacked projections and in fewer bits."""
    file, unet = small.write(tmp_path, family), small.parts_of(family)[0]
    query = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    spec = AdapterSpec(
        lora({"unet": unet.get_submodule(query).weight.shape, "text": torch.Size((small.WIDTH, small.WIDTH))}), 0.5, 0.5
    )
    merge_into_checkpoint(file, [spec], tmp_path / "merged.safetensors", dtype=torch.float16)
    merge_into_checkpoint(tmp_path / "merged.safetensors", [], tmp_path / "a", folder_writer=write_checkpoint_as_folder)
    report = merge_into_checkpoint(
        file, [spec], tmp_path / "b", dtype=torch.float16, folder_writer=write_checkpoint_as_folder
    )
    assert {layer.name for layer in report.layers} == {str(QUERY), str(TEXT)} and report.rounding.keys() == {
        str(QUERY),
        str(TEXT),
    }
    made = tensors_of(tmp_path / "b")
    assert equal(made, tensors_of(tmp_path / "a")) and {t.dtype for t in made.values()} == {torch.float16}


PREDICTIONS = {"SD1": "epsilon", "SD2": "v", "SDXL": "v"}


@pytest.mark.long
@pytest.mark.parametrize(("family", "channels"), [("embedded", 4), ("SD1", 9), ("SD2", 4), ("SDXL", 4)])
def test_diffusers_draws_the_same_picture(family: str, channels: int, tmp_path: Path, words: Path) -> None:
    from diffusers import DiffusionPipeline, EulerDiscreteScheduler

    file, options = embedded.CHECKPOINT, {}
    if family != "embedded":
        state = small.state_of(family, channels)
        file, options = tmp_path / "m.safetensors", {"prediction": PREDICTIONS[family]}
        save_file({**state, **({"v_pred": torch.zeros(0)} if family == "SDXL" else {})}, file)
    argv = ["--sd_model", str(file), "--save_to", str(tmp_path / "v1.5"), "--json"]
    assert merge_command.main([*argv, "--prediction", "v"] if family == "SD2" else argv) == 0
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "v1.5")
    assert type(pipeline).__name__ == {
        "SDXL": "StableDiffusionXLPipeline", "SD1": "StableDiffusionInpaintPipeline",
    }.get(family, "StableDiffusionPipeline")  # fmt: skip
    assert (pipeline.scheduler.config.prediction_type == "v_prediction") == (options.get("prediction") == "v")
    assert pipeline.tokenizer.model_max_length == 77
    if channels == 9:
        return
    model = load_model(file, device="cpu", **options)
    job = RenderJob("a b, ab", "b", [3], parse_sampling_plan("Euler", steps=4), 64, 64, cfg=4.0)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="linspace")
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    theirs = pipeline(
        "a b, ab", negative_prompt="b", num_inference_steps=4, guidance_scale=4.0, width=64, height=64,
        latents=noise, output_type="latent",
    ).images  # fmt: skip
    ours = sample_latents(model, job)
    assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


def test_what_a_folder_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_ext.host.standalone.tokenizer_files._cached", list)
    file = small.write(tmp_path, "SD1")

    def write(save_to: str, **options: object) -> None:
        merge_into_checkpoint(file, [], tmp_path / save_to, folder_writer=write_checkpoint_as_folder, **options)  # type: ignore[arg-type]

    with pytest.raises(FileError, match=r"no CLIP tokenizer.*--tokenizer DIR"):
        write("model")
    with pytest.raises(ToolError, match="whose name has no suffix"):
        write("model.safetensor")
    with pytest.raises(ToolError, match="the command `merge --sd_model`"):
        merge_into_checkpoint(file, [], tmp_path / "model")
    (tmp_path / "other").mkdir()
    with pytest.raises(ToolError, match="exists and is not a diffusers model"):
        write("other", overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {file.name, "other"}


@pytest.mark.long
def test_a_tensor_that_is_missing_is_named(tmp_path: Path, words: Path) -> None:
    state = dict(small.state_of("SD1"))
    del state["model.diffusion_model.input_blocks.1.1.proj_in.bias"]
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(FileError, match=r"its unet lacks 1 of \d+ tensors: .*input_blocks.1.1.proj_in.bias"):
        merge_into_checkpoint(
            tmp_path / "m.safetensors", [], tmp_path / "out", folder_writer=write_checkpoint_as_folder
        )
    assert not (tmp_path / "out").exists()
