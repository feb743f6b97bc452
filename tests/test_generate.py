"""Pictures from the command line and from Python, with their infotext."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_host_checkpoint import write

from lora_ext import __version__
from lora_ext.cli import main as cli
from lora_ext.errors import FileError, LoraError, PromptError
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.generate import GenerationReport, Settings, generate, load_settings_model, main, save_images
from lora_ext.host import infotext
from lora_ext.host.standalone.loader import StandaloneModel
from lora_ext.host.standalone.samplers import SAMPLERS
from lora_ext.host.standalone.timestep_samplers import TIMESTEP_SAMPLERS

UP = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with its tokenizer, and LoRA files."""
    root = tmp_path_factory.mktemp("models")
    write(root, "SD1")
    (root / "tokenizer").mkdir()
    pieces = [chr(97 + n) + end for n in range(26) for end in ("", "</w>")] + [
        ",</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (root / "tokenizer" / "vocab.json").write_text(json.dumps({piece: n for n, piece in enumerate(pieces)}))
    (root / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (root / "loras").mkdir()
    torch.manual_seed(0)
    lora = {f"{UP}.lora_down.weight": torch.randn(4, 32), f"{UP}.lora_up.weight": torch.randn(32, 4)}
    save_file(lora, root / "loras" / "strong.safetensors")
    save_file({name.replace("down_blocks_0", "down_blocks_9"): t for name, t in lora.items()} | {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.randn(4, 9, 1, 1),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.randn(9, 4, 1, 1),
    }, root / "loras" / "alien.safetensors")  # fmt: skip
    return root


def settings(folder: Path, **changes: object) -> Settings:
    common = {"ckpt": folder / "SD1.safetensors", "lora_dir": (folder / "loras",), "device": "cpu"}
    return Settings(**{"prompt": "a b", "seed": 3, "steps": 2, "width": 64, "height": 64, **common, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(folder: Path) -> StandaloneModel:
    return load_settings_model(settings(folder))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=int)


@pytest.mark.long
def test_a_lora_shows_and_leaves_no_trace(folder: Path, model: StandaloneModel) -> None:
    plain = generate(settings(folder), model=model)[0]
    drawn = {
        mode: generate(settings(folder, prompt="a b<lora:strong:1.0>", mode=mode), model=model)[0]
        for mode in ("live", "baked", "auto")
    }
    assert np.abs(pixels(drawn["live"]) - pixels(plain)).max() > 2
    assert all(np.abs(pixels(drawn["live"]) - pixels(drawn[mode])).max() <= 1 for mode in drawn)
    assert np.array_equal(pixels(generate(settings(folder), model=model)[0]), pixels(plain))


def test_schedules_reach_the_steps(folder: Path, model: StandaloneModel) -> None:
    """A LoRA that stops before the first step is not there; one that starts at the second is half there."""
    plain, never, late = (
        pixels(generate(settings(folder, prompt=f"a b{tag}", sampler="Euler"), model=model)[0])
        for tag in ("", "<lora:strong:1:stop=0>", "<lora:strong:1:start=1>")
    )
    assert np.array_equal(plain, never) and not np.array_equal(plain, late)


STEPS_OF_CURVES = {  # settings, and for each pass (U-Net calls, calls as the web UI counts them: place 1 is the last)
    "Euler": ({"sampler": "Euler"}, [(4, 4)]),
    "two calls a step": ({"sampler": "Heun"}, [(7, 8)]),
    "DPM2": ({"sampler": "DPM2"}, [(7, 8)]),
    "DDIM": ({"sampler": "DDIM"}, [(3, 4)]),
    "UniPC": ({"sampler": "UniPC"}, [(4, 4)]),
    "img2img": ({"sampler": "Euler", "steps": 6, "strength": 0.5}, [(4, 4)]),
    "img2img, DDIM": ({"sampler": "DDIM", "steps": 8, "strength": 0.5}, [(3, 5)]),
    "hires": ({"sampler": "Euler", "hr_scale": 1.25, "hr_strength": 0.5, "hr_steps": 3}, [(4, 4), (3, 3)]),
    "prompt editing": ({"sampler": "Euler", "prompt": "a [b:c:0.5] [d|e]"}, [(4, 4)]),
}


@pytest.mark.long
@pytest.mark.parametrize("name", STEPS_OF_CURVES)
def test_a_curve_keeps_the_step(folder: Path, model: StandaloneModel, tmp_path: Path, name: str) -> None:
    """From 0 at the first call of each pass on, by the share of the calls; as really applied, told on request."""
    given, passes = STEPS_OF_CURVES[name]
    changes: dict[str, object] = {"steps": 4, "prompt": "a b", "cfg": 1.0, **given}
    if "strength" in given:
        changes["init_image"] = tmp_path / "start.png"
        Image.new("RGB", (64, 64), "orange").save(tmp_path / "start.png")
    report = GenerationReport()
    wanted = settings(folder, **{**changes, "prompt": f"{changes['prompt']}<lora:strong:0@0,1@1>"}, show_curve=True)
    generate(wanted, model=model, report=report)
    told = [note for note in report.notes if note.startswith("strong: weight at each of")]
    assert len(told) == len(passes)
    for line, (calls, total) in zip(told, passes, strict=True):
        assert f"of {calls} U-Net calls" in line
        weights = [float(number) for number in line.split("calls ")[1].split(" ", 1)[1].split(", ")]
        assert weights == pytest.approx([call / (total - 1) for call in range(calls)], abs=5e-4)


def test_a_curve_over_noise_levels_is_the_same_at_any_number_of_steps(folder: Path, model: StandaloneModel) -> None:
    """Above a noise level for the first half of log sigma; DDIM's steps are spread otherwise, and keep to it too."""
    shares = []
    for sampler, steps in (("Euler", 4), ("Euler", 12), ("DDIM", 8)):
        report = GenerationReport()
        prompt = "a b<lora:strong:1@s1.001,0@s1>"
        generate(settings(folder, prompt=prompt, steps=steps, sampler=sampler, cfg=1.0, show_curve=True), model=model,
                 report=report)  # fmt: skip
        (line,) = (note for note in report.notes if "U-Net calls" in note)
        weights = [float(number) for number in line.split("calls ")[1].split(" ", 1)[1].split(", ")]
        assert weights == sorted(weights, reverse=True) and set(weights) == {0.0, 1.0}
        shares.append(sum(weights) / len(weights))
    assert max(shares) - min(shares) < 0.35


def test_seeds_count_up_over_batches(folder: Path, model: StandaloneModel) -> None:
    calls: list[tuple[int, int]] = []
    four = generate(settings(folder, batch=2, n_iter=2), model=model, on_progress=lambda *call: calls.append(call))
    one = generate(settings(folder, seed=6), model=model)[0]
    assert np.abs(pixels(four[3]) - pixels(one)).max() <= 1
    assert [image.info["parameters"].split("Seed: ")[1].split(",")[0] for image in four] == ["3", "4", "5", "6"]
    assert calls == [(0, 2), (1, 2)] * 2


def test_a_drawn_seed_is_reported(folder: Path, model: StandaloneModel) -> None:
    first, second = (generate(settings(folder, seed=-1, steps=1), model=model)[0] for _ in range(2))
    assert first.info["parameters"] != second.info["parameters"] and "Seed: -1" not in first.info["parameters"]


@pytest.mark.long
@pytest.mark.parametrize("sampler", [*SAMPLERS, *TIMESTEP_SAMPLERS])
def test_every_sampler_draws(folder: Path, model: StandaloneModel, sampler: str) -> None:
    (image,) = generate(settings(folder, sampler=sampler, cfg=1.0), model=model)
    assert image.size == (64, 64) and f"Sampler: {sampler}, " in image.info["parameters"]


def test_img2img_and_hires(folder: Path, model: StandaloneModel, tmp_path: Path) -> None:
    start = tmp_path / "start.png"
    Image.new("RGB", (70, 60), "orange").save(start)
    little, much = (
        generate(settings(folder, init_image=start, width=0, height=0, strength=s, steps=4), model=model)[0]
        for s in (0.1, 1.0)
    )
    assert little.size == (64, 56) and "Size: 64x56" in little.info["parameters"]
    assert "Denoising strength: 0.1, " in little.info["parameters"] and not np.array_equal(pixels(little), pixels(much))
    (large,) = generate(settings(folder, hr_scale=1.5, hr_steps=1), model=model)
    assert large.size == (96, 96)
    assert "Size: 64x64, " in large.info["parameters"]
    assert (
        "Denoising strength: 0.7, RNG: CPU, Hires upscale: 1.5, Hires steps: 1, Hires upscaler: Latent"
        in (large.info["parameters"])
    )


@pytest.mark.long
def test_weights_of_the_hires_pass_are_its_own(folder: Path, model: StandaloneModel) -> None:
    """A batch after a hires pass with weights of its own begins with those of the first pass again."""
    hires = {"hr_scale": 1.5, "hr_steps": 2, "seed": 3}

    def draw(tag: str, **more: int) -> list[np.ndarray]:
        asked = settings(folder, prompt=f"a <lora:strong:{tag}>", **(hires | more))
        return [pixels(image) for image in generate(asked, model=model)]

    (plain,), (same,), (without,) = draw("1"), draw("1:hr=1"), draw("1:hrunet=0")
    assert np.array_equal(plain, same) and not np.array_equal(plain, without)
    first, second = draw("1:hr=0", n_iter=2)
    assert np.array_equal(first, without) and np.array_equal(second, draw("1:hr=0", seed=4)[0])


def test_infotext(folder: Path, model: StandaloneModel) -> None:
    asked = settings(folder, prompt="a, b <lora:strong:0.5>", negative_prompt="c", cfg=7.5, clip_skip=2)
    text = generate(asked, model=model)[0].info["parameters"]
    first, second, output = text.split("\n")
    assert first == "a, b <lora:strong:0.5>" and second == "Negative prompt: c"
    digest = LoraLibrary([folder / "loras"]).find("strong").hash
    assert output == (
        "Steps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 3, Size: 64x64, "
        f"Model hash: {model.sha256[:10] if model.sha256 else ''}, Model: SD1, Clip skip: 2, RNG: CPU, "
        f'Lora hashes: "strong: {digest}", Version: lora-ext {__version__}'
    )


@pytest.mark.parametrize(
    ("value", "quoted"),
    [("a", "a"), (7, "7"), ("a, b", '"a, b"'), ("a: b", '"a: b"'), ('a\n"', '"a\\n\\""'), ("ä", "ä")],
)
def test_quoting(value: object, quoted: str) -> None:
    assert infotext.quote_infotext_value(value) == quoted


def test_infotext_parts() -> None:
    assert infotext.format_infotext("", "", {"Steps": 1, "Model": None}) == "Steps: 1"
    assert infotext.format_hashes({"a:b,c": "0123456789abcdef", "none": ""}) == "abc: 0123456789ab"
    assert infotext.format_hashes({}) is None
    assert (infotext.format_infotext_number(7.0), infotext.format_infotext_number(7.25)) == ("7", "7.25")


def test_files_count_on(folder: Path, model: StandaloneModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = generate(settings(folder, steps=1, batch=2), model=model)
    assert [p.name for p in save_images(images, tmp_path)] == ["00000-3.png", "00001-4.png"]
    (path,) = save_images(images[:1], tmp_path)
    assert path.name == "00002-3.png"
    with Image.open(path) as image:
        assert image.info["parameters"] == images[0].info["parameters"]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write into"):
        save_images(images, tmp_path / "file")

    def half(image: Image.Image, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(FileError, match="No space left"):
        save_images(images, tmp_path / "full")
    assert not list((tmp_path / "full").iterdir())


def test_a_lora_that_does_not_fit_is_named(folder: Path, model: StandaloneModel) -> None:
    report = GenerationReport()
    generate(settings(folder, prompt="a <lora:alien:1>", steps=1), model=model, report=report)
    assert "alien" in str(report.fits[0]) and "does not fit this model" in str(report.fits[0])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"width": 60}, "multiples of 8 pixels; got 60x64"),
        ({"height": 100000}, "up to 8192 pixels"),
        ({"batch": 0}, "batch=0"),
        ({"cfg": float("nan")}, "cfg=nan"),
        ({"strength": 1.5}, "strength=1.5"),
        ({"hr_scale": 0.5}, "hr_scale=0.5"),
        ({"clip_skip": 9}, "the text encoder has 3 layers"),
        ({"mode": "bake"}, "did you mean 'baked'"),
        ({"sampler": "Euler b"}, "did you mean 'Euler a'|did you mean 'Euler'"),
        ({"scheduler": "karass"}, "did you mean 'Karras'"),
        ({"prompt": "<lora:stron:1>"}, "did you mean 'strong'"),
        ({"prompt": "<lora:strong:x:y:z:1>"}, "lora:strong"),
        ({"init_image": Path("nowhere.png")}, "not a readable image"),
        ({"lora_dir": (Path("nowhere"),)}, "not a folder"),
        ({"masks": (Path("nowhere"),)}, "nowhere is not a folder; give one that holds masks"),
        ({"seed": -2}, "at least 0; got seed=-2"),
        ({"seed": 2**64, "steps": 1}, "the seed 18446744073709551616 is too large"),
    ],
)
def test_mistakes(folder: Path, model: StandaloneModel, changes: dict[str, object], text: str) -> None:
    with pytest.raises(LoraError, match=text):
        generate(settings(folder, **changes), model=model)


def test_a_bad_tag_is_a_prompt_error(folder: Path, model: StandaloneModel) -> None:
    with pytest.raises(PromptError):
        generate(settings(folder, prompt="<lora:>"), model=model)


def test_ratios_without_regions_are_told(folder: Path, model: StandaloneModel) -> None:
    for prompt, told in (("a", True), ("a BREAK b", False)):
        report = GenerationReport()
        generate(settings(folder, prompt=prompt, region_ratios="1,1", steps=1), model=model, report=report)
        assert any("region_ratios '1,1' changes nothing" in note for note in report.notes) == told


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ckpt, out = str(folder / "SD1.safetensors"), str(tmp_path)
    size = ["--width", "64", "--height=64", "--steps", "1", "--seed", "1", "--device", "cpu", "--out", out]
    loras = ["--lora-dir", str(folder / "loras"), "--lora_dir", str(tmp_path)]
    prompts = ["--prompt", "a <lora:strong:0.5>", "--negative-prompt", "b", "--n_iter", "2", "--clip-skip", "2"]
    assert main(["--ckpt", ckpt, *size, *loras, *prompts, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert [Path(image["file"]).name for image in output["images"]] == ["00000-1.png", "00001-2.png"]
    assert "Clip skip: 2" in output["images"][0]["infotext"] and "strong" in output["loras"][0]["text"]
    assert cli(["generate", "--ckpt", ckpt, *size]) == 0
    assert capsys.readouterr().out == f"{tmp_path / '00002-1.png'}\n"


def test_a_tag_that_cannot_act_is_skipped_with_a_word(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown name, a bad tag and an unreadable file touch nothing else; --strict draws nothing then."""
    loras = tmp_path / "loras"
    loras.mkdir()
    (loras / "strong.safetensors").write_bytes((folder / "loras" / "strong.safetensors").read_bytes())
    (loras / "broken.safetensors").write_bytes(b"<!DOCTYPE html>")
    base = ["--ckpt", str(folder / "SD1.safetensors"), "--lora_dir", str(loras), "--seed", "1", "--device", "cpu"]
    base += ["--width", "64", "--height", "64", "--steps", "1"]
    wrong = {
        "<lora:stron:1>": "tag skipped: no LoRA is called 'stron'; did you mean 'strong'?",
        "<lora:strong:x:y:z:1>": "tag skipped: ",
        "<lora:broken:1>": "broken.safetensors cannot be loaded: it is a web page",
        "<lora:strong:1:lbw=1,2>": "tag skipped: ",
    }
    prompt = "a <lora:strong:0.5>"
    assert main([*base, "--out", str(tmp_path / "one"), "--prompt", prompt]) == 0
    capsys.readouterr()
    assert main([*base, "--out", str(tmp_path / "all"), "--prompt", " ".join([prompt, *wrong]), "--json"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)["notes"]) == len(wrong)
    assert all(text in said.err for text in wrong.values()) and "strong: its only layer applies" in said.err
    alone, beside = (np.array(Image.open(tmp_path / name / "00000-1.png")) for name in ("one", "all"))
    assert np.array_equal(alone, beside)
    for tag, text in wrong.items():
        assert main([*base, "--out", str(tmp_path / "none"), "--prompt", f"{prompt} {tag}", "--strict"]) == 2
        assert text.removeprefix("tag skipped: ") in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--sampler", "Eulr"], "did you mean 'Euler'"),
        (["--ckpt", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["--width", "65"], "multiples of 8"),
        (["--precision", "fp17", "--ckpt", "."], "did you mean 'fp16'"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert text in said and said.count("\n") == 1


def test_usage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--steps", "many"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("prompt", "negative", "says"),
    [
        (
            "a <lora:strong:1:step=9-2>",
            "",
            "strong: it never acts, because it starts at step 9 and stops before step 2",
        ),
        ("a <lora:strong:1:start=50>", "", "starts at step 50, and the image has 2 steps (0 to 1)"),
        ("a <lora:strong:0>", "", "strong changes nothing: its weight is 0"),
        (f"a <lora:strong:1:lbw={','.join('0' * 17)}>", "", "strong changes nothing: its weight is 0 in every layer"),
        ("a [<lora:strong:1>:10]", "", "write <lora:strong:1:step=10->"),
        ("a", "bad <lora:strong:1>", "in the negative prompt is not applied"),
        ("a <lora:strong:1", "", "has no > at its end"),
        ("a ＜lora：strong：1＞", "", "write <lora:strong:1>"),
    ],
)
def test_a_tag_that_does_nothing_is_reported(
    folder: Path, model: StandaloneModel, capsys: pytest.CaptureFixture[str], prompt: str, negative: str, says: str
) -> None:
    report = GenerationReport()
    generate(settings(folder, prompt=prompt, negative_prompt=negative), model=model, report=report)
    assert len([note for note in report.notes if says in note]) == len(report.notes) == 1
    given = ["--prompt", prompt, "--negative_prompt", negative, "--steps", "2", "--width", "64", "--height", "64"]
    where = ["--ckpt", str(folder / "SD1.safetensors"), "--lora_dir", str(folder / "loras"), "--device", "cpu"]
    assert main([*given, *where, "--out", str(folder / "out")]) == 0
    assert capsys.readouterr().err.count(says) == 1


def test_a_file_of_another_model_is_not_said_to_have_weight_0(folder: Path, model: StandaloneModel) -> None:
    report = GenerationReport()
    generate(settings(folder, prompt="a <lora:alien:1>"), model=model, report=report)
    assert report.notes == [] and "its only layer does not apply" in str(report.fits[0])


def test_each_pass_tells_of_its_own_steps(folder: Path, model: StandaloneModel) -> None:
    report = GenerationReport()
    asked = settings(folder, prompt="a <lora:strong:1:start=2>", steps=3, hr_scale=2.0, hr_steps=1)
    generate(asked, model=model, report=report)
    assert report.notes == ["strong: it never acts, because it starts at step 2, and the image has 1 step (0 to 0)"]


def test_strict_stops_before_it_draws_where_a_file_does_not_fit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loras = tmp_path / "loras"
    loras.mkdir()
    for name, keys in {"part": ("mid_block_attentions_0_proj_in", "nowhere_to_x"), "none": ("nowhere_to_y",)}.items():
        tensors = {f"lora_unet_{key}.lora_{side}.weight": torch.ones(shape) for key in keys
                   for side, shape in (("up", (32, 2)), ("down", (2, 32)))}  # fmt: skip
        save_file(tensors, loras / f"{name}.safetensors")
    base = ["--ckpt", str(folder / "SD1.safetensors"), "--lora_dir", str(loras), "--device", "cpu", "--steps", "1",
            "--width", "64", "--height", "64", "--out", str(tmp_path / "out"), "--strict"]  # fmt: skip
    assert main([*base, "--prompt", "a <lora:part:1> <lora:none:1> <lora:none:0.5>"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("lora-ext: --strict: nothing is generated, because not every layer applies. part")
    assert said.count("none does not fit this model") == 1 and not (tmp_path / "out").exists()


def test_strict_stops_at_what_was_meant_as_a_tag(folder: Path, model: StandaloneModel) -> None:
    with pytest.raises(PromptError, match="has no > at its end"):
        generate(settings(folder, prompt="a <lora:strong:1", strict=True), model=model, report=GenerationReport())
