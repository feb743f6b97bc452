"""`PatchedModel`: a model of a web UI whose weights belong to patchers, as `protocols.HookableModel`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...inject import LIVE, Injection, MemoryBudget
from ...layer_names import TE, TE2, UNET
from .injection import PatchedInjection
from .model_patches import patches_of_model


def has_patchers(sd_model: Any) -> bool:
    """Whether a model's weights belong to patchers (`forge_objects`)."""
    return getattr(sd_model, "forge_objects", None) is not None


@dataclass(frozen=True, eq=False)
class PatchedModel:
    """A model with `forge_objects`, `forge_objects_original` and `forge_objects_after_applying_lora`."""

    sd_model: Any

    def parts(self) -> Mapping[str, nn.Module]:
        """Returns "unet", "te", "te2" → network.

        The U-Net has LDM's names, text encoders are transformers' CLIP or have its names: SD1 has `clip_l`, SD2
        `clip_h`, SDXL `clip_l` and `clip_g`.
        """
        objects = self.sd_model.forge_objects
        parts: dict[str, nn.Module] = {UNET: objects.unet.model.diffusion_model}
        text = objects.clip.cond_stage_model
        for part, names in ((TE, ("clip_l", "clip_h")), (TE2, ("clip_g",))):
            for name in names:
                encoder = getattr(getattr(text, name, None), "transformer", None)
                if isinstance(encoder, nn.Module):
                    parts[part] = encoder
        return parts

    def create_injection(self, mode: str, memory: MemoryBudget | None = None) -> Injection:
        """Returns an injection that bakes through the patchers; one of hooks only where they are of an unknown kind."""
        patches = patches_of_model(self.sd_model)
        return Injection(LIVE, memory) if patches is None else PatchedInjection(patches, mode, memory)
