"""Runs the web UI's sampling and decoding again where memory runs out, with all LoRAs as forward hooks.

Also where files that act on single rows of a batch cannot be applied: with all of them on all rows.
The web UI has no callback for this. The functions replaced here are called once for each batch, and give the same
result when they are called again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from modules import processing, rng

RunWithRetry = Callable[[Callable[[], Any]], Any]
"""Calls a function and returns its result; it may call it a second time."""


class OutOfMemoryHooks:
    """Replaces the functions; `close` restores the originals, or disables replacements that others have wrapped."""

    def __init__(self, retry: RunWithRetry) -> None:
        self.active = True
        self._retry = retry
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        for kind in ("StableDiffusionProcessingTxt2Img", "StableDiffusionProcessingImg2Img"):
            self._replace(getattr(processing, kind, None), "sample", _noise_reset)
        self._replace(getattr(processing, "StableDiffusionProcessingTxt2Img", None), "sample_hr_pass")
        self._replace(processing, "decode_latent_batch")

    def _replace(self, owner: Any, name: str, before: Callable[[Any], Callable[[], None]] | None = None) -> None:
        """Replaces a function. `before` gets its first argument and returns what to call before the second try."""
        original = getattr(owner, name, None)
        if original is None:  # other web UIs have other functions
            return

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            if not self.active:
                return original(*args, **kwargs)
            again = before(args[0]) if before else None
            tries = 0

            def work() -> Any:
                nonlocal tries
                tries += 1
                if tries > 1 and again:
                    again()
                return original(*args, **kwargs)

            return self._retry(work)

        setattr(owner, name, replacement)
        self._replaced.append((owner, name, original, replacement))

    def close(self) -> None:
        """Restores the original functions."""
        self.active = False
        for owner, name, original, replacement in self._replaced:
            if getattr(owner, name) is replacement:
                setattr(owner, name, original)
        self._replaced.clear()


def _noise_reset(p: Any) -> Callable[[], None]:
    """Prepares new noise generators with the same seeds for the second try, since the first one has used them."""
    used = getattr(p, "rng", None)

    def again() -> None:
        p.is_hr_pass = False
        if used is None:
            return
        p.rng = rng.ImageRNG(
            used.shape,
            used.seeds,
            subseeds=used.subseeds,
            subseed_strength=used.subseed_strength,
            seed_resize_from_h=used.seed_resize_from_h,
            seed_resize_from_w=used.seed_resize_from_w,
        )

    return again
