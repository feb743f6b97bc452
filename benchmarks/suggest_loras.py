"""LoRAs whose effects differ, made in a folder for `compare_suggest.py`: a frame, stripes, both, a tint, blur, one
learned by heart, one too strong, one too weak, random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from lora_ext.adapters import Adapter, Lora
from lora_ext.embedded import shapes
from lora_ext.file import load_lora_file, save_lora_file
from lora_ext.file.lora_file import LoraFile
from lora_ext.generate import Settings, load_settings_model
from lora_ext.tools.merge import main as merge
from lora_ext.training import toy_task, train

SAMPLES = Path(shapes.__file__).parent / "loras"
Paint = Callable[[Image.Image], Image.Image]


def scaled(name: str, by: float, out: Path, parts: Sequence[str] = ("unet", "te")) -> None:
    """A sample LoRA whose update is `by` times as large, of these parts alone."""
    file = load_lora_file(SAMPLES / f"{name}.safetensors")
    adapters: dict[object, Adapter] = {}
    for layer_id, adapter in file.adapters.items():
        if any(layer_id.part.startswith(part) for part in parts):
            grown = {key: tensor * by if "up" in key else tensor for key, tensor in adapter.tensors.items()}
            adapters[layer_id] = Lora(grown)
    save_lora_file(LoraFile(adapters), out, overwrite=True)  # type: ignore[arg-type]


def random(size: float, out: Path, rank: int = 4) -> None:
    """Random numbers in every layer of a sample LoRA; `size`: their standard deviation, as a share of its own."""
    torch.manual_seed(3)
    file, adapters = load_lora_file(SAMPLES / "framed.safetensors"), {}
    for layer_id, adapter in file.adapters.items():
        tensors = {key: torch.randn_like(tensor.float()) * tensor.float().std() * size if "lora_" in key else tensor
                   for key, tensor in adapter.tensors.items()}  # fmt: skip
        adapters[layer_id] = Lora(tensors)
    save_lora_file(LoraFile(adapters), out, overwrite=True)


def warm(image: Image.Image) -> Image.Image:
    """Tinted as an old photograph is."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    tint = grey * np.array([255, 205, 130], np.float32)
    return Image.fromarray((0.25 * np.asarray(image, np.float32) + 0.75 * tint).round().astype(np.uint8))


def soft(image: Image.Image) -> Image.Image:
    """As seen through fog: blurred, and paler."""
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(2.5)), np.float32)
    return Image.fromarray((0.75 * blurred + 0.25 * 235).round().astype(np.uint8))


def trained(name: str, out: Path, paint: Paint, *, count: int = 64, epochs: int = 16, **more: object) -> None:
    """A short training on scenes that `paint` changed; captions do not speak of the change."""
    rng = np.random.default_rng(11)
    scenes = [shapes.random_scene(rng) for _ in range(count)]
    folder = out / "dataset" / name / f"1_{name}"
    toy_task.save_scenes(folder, scenes, [shapes.caption(scene, rng) for scene in scenes])
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            painted = paint(image.convert("RGB"))
        painted.save(path)
    settings = {"output_name": name, "network_module": "lierla", "network_dim": 4, "network_alpha": 4,
                "conv_dim": None, "conv_alpha": None, "learning_rate": 1e-3, "max_train_epochs": epochs,
                "save_every_n_epochs": None, "train_batch_size": 8, **more}  # fmt: skip
    train(toy_task.toy_recipe((folder.parent, None), out, **settings), model=load_settings_model(Settings()))


def framed(image: Image.Image) -> Image.Image:
    """With a black and a white line around it."""
    made = np.asarray(image).copy()
    made[:6], made[-6:], made[:, :6], made[:, -6:] = 20, 20, 20, 20
    made[6:9, 6:-6], made[-9:-6, 6:-6], made[6:-6, 6:9], made[6:-6, -9:-6] = 245, 245, 245, 245
    return Image.fromarray(made)


MADE: dict[str, Callable[[Path], object]] = {
    "framed": lambda out: scaled("framed", 1, out / "framed.safetensors"),
    "striped": lambda out: scaled("striped", 1, out / "striped.safetensors"),
    "both": lambda out: merge(["--save_to", str(out / "both.safetensors"), "--concat", "--models",
                               str(SAMPLES / "framed.safetensors"), str(SAMPLES / "striped.safetensors")]),
    "inverse": lambda out: scaled("framed", -1, out / "inverse.safetensors"),
    "quarter": lambda out: scaled("framed", 0.25, out / "quarter.safetensors"),
    "fivefold": lambda out: scaled("framed", 5, out / "fivefold.safetensors"),
    "twins": lambda out: scaled("framed", 1, out / "twins.safetensors", ("unet",)),
    "nothing": lambda out: random(1e-3, out / "nothing.safetensors"),
    "noise": lambda out: random(6, out / "noise.safetensors"),
    "warm": lambda out: trained("warm", out, warm, epochs=40, learning_rate=2e-3),
    "soft": lambda out: trained("soft", out, soft, epochs=40, learning_rate=2e-3),
    "byheart": lambda out: trained("byheart", out, framed, count=4, epochs=120, learning_rate=4e-3,
                                   train_batch_size=4, save_every_n_epochs=30),
}  # fmt: skip
"""Name → what makes it in a folder."""


def make(out: Path, names: Sequence[str] = tuple(MADE)) -> Path:
    """The LoRAs of these names; those that are there are used again."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (out / f"{name}.safetensors").is_file():
            MADE[name](out)
    return out
