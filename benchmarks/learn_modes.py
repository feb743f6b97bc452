"""Do the modes without a folder of pictures teach? Each is trained on the embedded model and judged by its checker.

    python benchmarks/learn_modes.py [--only ileco erase slider addift …] [--threads 2] [--out DIR] [--set NAME=VALUE …]

ileco: "red" becomes "blue". 36 whole scenes with red are given as prompts and 200 without as prompts to keep; of the
other scenes with red the first 24 that the model draws right in blue are judged as blue, and 24 scenes without red,
which were not given, as themselves, of those that were right before.
erase: rings, from 19 prompts with a ring and those of other shapes to keep. 24 other prompts must show no ring; 24
without one are judged as before. Asked for nothing the model draws one of six shapes, so a sixth may be rings again.
slider: "small" to "large". The area of the shape in 12 scenes that were not given, at weights -2 to 2, and how many
that were right still are.
addift: one pair, a red circle without and with a white frame. The frame is pasted into pictures that the model draws of
other prompts. 24 scenes without white are drawn and must have the frame, and within it their own shape in its colours.
pair-alone, multi-addift, difference: the same from that pair without other pictures, from 12 pairs, and in two passes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lora_ext.embedded import shapes
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.generate import load_settings_model
from lora_ext.host.standalone.model import StandaloneModel
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.training import toy_task
from lora_ext.training.standalone_run import train

TEMPLATE = shapes.TEMPLATES[0]
WITHOUT_RED = tuple(text for text in shapes.SCENE_PROMPTS if "red" not in text)
JUDGED = 24


def mixed_scenes(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Every shape in every pair of colours (shape, ground), in an order that mixes both."""
    names, count = list(shapes.SHAPES), len(pairs)
    return [
        TEMPLATE.format(colour=pairs[at][0], ground=pairs[at][1], shape=name)
        for j in range(count)
        for i, name in enumerate(names)
        for at in [(i * 5 + j) % count]
    ]


OTHERS = [name for name in shapes.SHAPE_COLOURS if name not in ("red", "blue")]
RED = mixed_scenes([pair for other in OTHERS for pair in (("red", other), (other, "red"))])
"""72 scenes with red and without blue: the first half is for training."""
KEPT = [
    text
    for text in mixed_scenes([(a, b) for a in (*OTHERS, "blue") for b in (*OTHERS, "blue") if a != b])
    if text not in WITHOUT_RED[:JUDGED]
]
"""Scenes without red that are not judged."""
RINGS = [text for text in KEPT if "ring" in text]
NO_RINGS = [text for text in (*KEPT, *RED) if "ring" not in text and text not in shapes.SCENE_PROMPTS]
SIZED = KEPT[:36]
UNFRAMED = [text for text in shapes.SCENE_PROMPTS if "white" not in text][:JUDGED]
FRAMED = [*(text for text in KEPT[::7] if "white" not in text and text not in UNFRAMED), ""]
_COLOURED = [text for text in (*KEPT, *RED) if "white" not in text and text not in shapes.SCENE_PROMPTS]
PASTED = [*_COLOURED[:: len(_COLOURED) // 23][:23], ""]
COMMON: dict[str, Any] = {
    "resolution": str(shapes.SCENE_PIXELS), "network_module": "lierla", "network_dim": 8, "network_alpha": 8,
    "train_batch_size": 8, "learning_rate": 5e-4, "max_train_steps": 30, "lr_scheduler": "cosine", "seed": 1,
    # the noisy timesteps, where colours and sizes are decided, have next to no weight otherwise
    "v_pred_like_loss": 1.0,
}  # fmt: skip
WORDS: dict[str, Any] = {"network_include": ("*attn2.to_k", "*attn2.to_v"), "uce_start": True}
C3LIER: dict[str, Any] = {"network_module": "c3lier", "conv_dim": 8, "conv_alpha": 8, "cache_latents": True}
PAIRS: dict[str, Any] = {
    **C3LIER,
    "train_batch_size": 4,
    "learning_rate": 2.5e-3,
    "max_train_steps": 230,
    "pair_weight": 0.7,
    "diff_alt_ratio": 0,
    # a frame is settled at the noisy timesteps
    "min_timestep": 300,
    "debiased_estimation_loss": True,
}
TURNS: dict[str, Any] = {"original_prompt": "|".join(FRAMED), "target_prompt": "|".join(FRAMED)}
MODES: dict[str, dict[str, Any]] = {
    "ileco": {
        **WORDS,
        "original_prompt": "|".join(RED[:36]),
        "target_prompt": "|".join(text.replace("red", "blue") for text in RED[:36]),
        "keep_prompts": "|".join(KEPT[:200]),
    },
    "erase": {
        **WORDS,
        "mode": "ileco",
        "original_prompt": "|".join(RINGS[::2]),
        "keep_prompts": "|".join(NO_RINGS),
        "target_guidance": 1.25,
        "network_dim": 16,
        "network_alpha": 16,
        "learning_rate": 1e-4,
        "max_train_steps": 10,
    },
    "slider": {
        **WORDS,
        "original_prompt": "|".join(SIZED),
        "positive_prompt": "|".join(text.replace("a ", "a large ", 1) for text in SIZED),
        "negative_prompt": "|".join(text.replace("a ", "a small ", 1) for text in SIZED),
        "slider_guidance": 0.125,
    },
    "addift": {**PAIRS, "caption_dropout_rate": 0.25},
    "pair-alone": {**PAIRS, **TURNS, "mode": "addift"},
    "multi-addift": {**PAIRS, **TURNS, "diff_target_name": "_framed"},
    "difference": {**C3LIER, "original_prompt": "a red circle on a black background", "learning_rate": 1e-3},
}


def drawn(model: StandaloneModel, out: Path, prompts: Sequence[str], tag: str = "") -> list[Image.Image]:
    """A picture of each prompt."""
    base = replace(toy_task.TOY_SETTINGS, seed=107)
    return toy_task.generate_toy_images(model, LoraLibrary([out]), base, prompts, tag)


def obeyed(images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
    """Which pictures show what their prompts say."""
    return np.array([shapes.obeys(image, text) for image, text in zip(images, prompts, strict=True)])


def judge_ileco(model: StandaloneModel, out: Path) -> None:
    """Prints the shares of prompts with red that turned and of others that changed."""
    held = RED[36:]
    blue = [text.replace("red", "blue") for text in held]
    right = np.flatnonzero(obeyed(drawn(model, out, blue), blue))[:JUDGED]
    turned = obeyed(drawn(model, out, [held[i] for i in right], "<lora:ileco:1>"), [blue[i] for i in right])
    print(f"ileco: {turned.sum()} of {len(right)} turned; {changed(model, out, 'ileco', WITHOUT_RED[:JUDGED])}")


def judge_erase(model: StandaloneModel, out: Path) -> None:
    """Prints how many of the new prompts with a ring still show one, and how many others changed."""
    rings = [TEMPLATE.format(colour=a, ground=b, shape="ring") for a, b in permutations(shapes.SHAPE_COLOURS, 2)]
    rings = [text for text in rings if text not in RINGS[::2]]
    right = np.flatnonzero(obeyed(drawn(model, out, rings), rings))[:JUDGED]
    asked = [rings[i] for i in right]
    others = [text for text in shapes.SCENE_PROMPTS if "ring" not in text][:JUDGED]
    images = drawn(model, out, asked, "<lora:erase:1>")
    fits = [
        shapes.shape_fits(image, shapes.parse_scene_caption(text))["ring"]
        for image, text in zip(images, asked, strict=True)
    ]
    gone = (np.array(fits) < 0.72).sum()
    print(f"erase: {gone} of {len(asked)} rings are gone; {changed(model, out, 'erase', others)}")


def changed(model: StandaloneModel, out: Path, name: str, prompts: Sequence[str]) -> str:
    """Says how many prompts that were obeyed are not any more with the LoRA."""
    before, after = (obeyed(drawn(model, out, prompts, tag), prompts) for tag in ("", f"<lora:{name}:1>"))
    return f"{(before & ~after).sum()} of {before.sum()} others changed"


def area(image: Image.Image, scene: shapes.Scene) -> float:
    """The share of pixels nearer to the shape's colour than to the ground's."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    shape, ground = (
        np.square(pixels - np.array(shapes.SHAPE_COLOURS[name])).sum(-1) for name in (scene.colour, scene.ground)
    )
    return float((shape < ground).mean())


def judge_slider(model: StandaloneModel, out: Path) -> None:
    """Prints the mean area of the shape at each weight, and how many of those that were right still are."""
    prompts = WITHOUT_RED[:12]
    right = obeyed(drawn(model, out, prompts), prompts)
    for weight in (-2, -1, 0, 1, 2):
        images = drawn(model, out, prompts, f"<lora:slider:{weight}>" if weight else "")
        areas = [area(image, shapes.parse_scene_caption(text)) for image, text in zip(images, prompts, strict=True)]
        kept = obeyed(images, prompts)[right].sum()
        print(f"slider {weight:+}: area {np.mean(areas):.3f}, {kept} of {right.sum()} still right", flush=True)


def save_pairs(folder: Path, captions: Sequence[str], names: Sequence[str]) -> None:
    """Saves the scenes of captions without and with their frame, under the names given of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(captions):
        scene = shapes.parse_scene_caption(text)
        for name, style in zip(names, ("plain", "framed"), strict=True):
            shapes.draw_scene(replace(scene, style=style)).save(folder / name.format(number))


def pair_settings(model: StandaloneModel, mode: str, out: Path) -> dict[str, Any]:
    """Saves the pairs of a mode, and the pictures into which one is pasted; the options that name them."""
    if mode == "multi-addift":
        save_pairs(out / "pairs", FRAMED[:12], ["{}.png", "{}_framed.png"])
        return {"train_data_dir": str(out / "pairs")}
    names = {"original_image": "before.png", "target_image": "after.png"}
    save_pairs(out / "pair", ["a red circle on a black background"], list(names.values()))
    made = {option: str(out / "pair" / name) for option, name in names.items()}
    if mode != "addift":
        return made
    toy_task.save_pictures(out / "paste", drawn(model, out, PASTED), PASTED)
    return {**made, "paste_data_dir": str(out / "paste")}


def judge_frames(model: StandaloneModel, out: Path) -> None:
    """Prints how many new prompts have the frame, and how many of them their shape in its colours within."""
    framed = [text.replace("a ", "a framed ", 1) for text in UNFRAMED]
    for weight in (1, 0.7):
        images = drawn(model, out, UNFRAMED, f"<lora:{out.name}:{weight}>")
        frames = sum(shapes.has_frame(image, text) for image, text in zip(images, framed, strict=True))
        right = obeyed(images, framed).sum()
        shapes.image_grid(images).save(out / f"{weight}.png")
        print(f"{out.name} {weight}: {frames} of {len(framed)} have the frame, {right} of them are right", flush=True)


JUDGES = {"ileco": judge_ileco, "erase": judge_erase, "slider": judge_slider}


def main() -> None:
    """Trains and judges the modes asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=MODES, default=list(MODES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keeps the files there; a file that is there is judged")
    parser.add_argument("--train_only", action="store_true", help="judges nothing; a second run with --out does")
    parser.add_argument("--set", nargs="*", default=[], help="other settings, such as learning_rate=5e-4")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_settings_model(toy_task.TOY_SETTINGS)
    more = dict(setting.split("=", 1) for setting in options.set)
    with tempfile.TemporaryDirectory() as temporary:
        for mode in options.only:
            out = (options.out or Path(temporary)) / mode
            own = {**MODES[mode], **({} if mode in JUDGES else pair_settings(model, mode, out))}
            made = recipe_from_settings(
                {**COMMON, "mode": mode, **own, "output_name": mode, "output_dir": str(out), **more}
            )
            if not (out / f"{mode}.safetensors").exists():
                used = time.process_time()
                outcome = train(made, model=model)
                used = time.process_time() - used
                print(f"{mode}: {outcome.steps} steps in {outcome.seconds:.0f} s, {used:.0f} CPU s", flush=True)
            if not options.train_only:
                JUDGES.get(mode, judge_frames)(model, out)


if __name__ == "__main__":
    main()
