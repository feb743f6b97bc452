"""`Settings`: everything that `generate` needs to know, with checks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from ..compare.image_spec import ImageSettings
from ..errors import LoraError, did_you_mean
from ..host.standalone.sampling import parse_sampling_plan
from ..inject import MODES
from ..prompt_regions import DEFAULT_BASE_SHARE
from ..protocols import VAE_SCALE_FACTOR

MAX_IMAGE_SIDE = 8192
"""Largest width and height in pixels: with a typing error such as 51200 an image would fill the memory."""


@dataclass(frozen=True)
class Settings(ImageSettings):
    """What `generate` makes and how, with the web UI's names; prompt, size and sampler are `ImageSettings`' fields.

    Attributes:
        seed: the first image's seed, -1 for a random one; the images after it count up from it.
        ckpt: a checkpoint file or a diffusers folder; None for the embedded model.
        lora_dir: folders that hold LoRA files, searched with their subfolders; by default the embedded model's.
        embeddings: folders of textual-inversion files, used by file name in prompts. Embeddings inside LoRA files need
            none.
        batch: images at once.
        n_iter: batches, one after the other.
        init_image: the image that img2img begins with.
        strength: denoising strength of img2img, 0 to 1.
        hr_scale: above 1: a second pass at that many times the size (hires fix).
        hr_strength: denoising strength of the second pass, 0 to 1.
        hr_steps: steps of the second pass, 0 for as many as in the first.
        mode: how LoRA files are applied: "auto", "live" or "baked".
        device: torch's name of a device; by default the GPU, else the CPU.
        precision: "fp32", "fp16" or "bf16".
        tokenizer: a folder with CLIP's tokenizer files.
        config: the LDM configuration, where it does not lie beside the checkpoint.
        prediction: what the U-Net predicts, "epsilon" or "v", where the file does not say.
        region_ratios: sizes of the regions that ADDCOL, ADDROW and BREAK divide the prompt into, such as `1,2;1`.
        base_ratio: share of ADDBASE's text within the regions, 0 to 1.
        masks: folders of masks that `at=` names; by default `masks` in the user's data folder.
        strict: a tag that cannot be applied, or whose file does not wholly fit the model, is an error, not a note.
        show_curve: a note says which weight each scheduled file had at each U-Net call.
    """

    seed: int = -1
    ckpt: Path | None = None
    lora_dir: tuple[Path, ...] = ()
    embeddings: tuple[Path, ...] = ()
    batch: int = 1
    n_iter: int = 1
    init_image: Path | None = None
    strength: float = 0.75
    hr_scale: float = 1.0
    hr_strength: float = 0.7
    hr_steps: int = 0
    mode: str = "auto"
    device: str | None = None
    precision: str = "fp32"
    tokenizer: Path | None = None
    config: Path | None = None
    prediction: str | None = None
    region_ratios: str = ""
    base_ratio: float = DEFAULT_BASE_SHARE
    masks: tuple[Path, ...] = ()
    strict: bool = False
    show_curve: bool = False

    def checked(self) -> Settings:
        """Returns the settings themselves.

        Raises:
            LoraError: a value is outside its range, or names no sampler, schedule or mode.
        """
        rules = (
            (
                self.width % VAE_SCALE_FACTOR == 0 and self.height % VAE_SCALE_FACTOR == 0,
                f"sizes are multiples of {VAE_SCALE_FACTOR} pixels",
            ),
            (min(self.size) >= 0 and max(self.size) <= MAX_IMAGE_SIDE, f"sides are up to {MAX_IMAGE_SIDE} pixels"),
            (self.seed >= -1, "seed is -1, for a random one, or at least 0"),
            (self.batch >= 1 and self.n_iter >= 1, "batch and n_iter are at least 1"),
            (math.isfinite(self.cfg), "cfg is a finite number"),
            (self.clip_skip >= 1, "clip_skip is at least 1"),
            (0 <= self.strength <= 1 and 0 <= self.hr_strength <= 1, "strengths are from 0 to 1"),
            (0 <= self.base_ratio <= 1, "base_ratio is from 0 to 1"),
            (1 <= self.hr_scale <= 8, "hr_scale is from 1 to 8"),
            (self.mode in MODES, f"unknown mode {self.mode!r}{did_you_mean(self.mode, MODES)}"),
        )
        broken = next((text for holds, text in rules if not holds), None)
        if broken:
            raise LoraError(broken if broken.startswith("unknown") else f"{broken}; got {self._format_values(broken)}")
        parse_sampling_plan(self.sampler, self.scheduler, self.steps)
        return self

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    def _format_values(self, rule: str) -> str:
        """Formats the values that a rule is about, as `name=value`."""
        if rule.startswith("si"):
            return f"{self.width}x{self.height}"
        names = re.findall(r"seed|batch|n_iter|cfg|clip_skip|hr_scale|base_ratio", rule) or ["strength", "hr_strength"]
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)
