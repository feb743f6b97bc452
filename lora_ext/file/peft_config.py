"""PEFT configurations, which hold alphas: `adapter_config.json` beside a file, or diffusers' metadata.

PEFT scales a layer by alpha / r, or alpha / √r with `use_rslora`; `alpha_pattern` gives single layers another alpha.
Without a configuration neither a file's alpha nor its scale is known; alpha = r is assumed, as diffusers does.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from ..adapters import Adapter, LoKr, OftV2, adapter_from_tensors
from ..bounded_matching import is_bounded_expression
from ..json_text import parse_json
from .containers import LORA_FILE_SUFFIXES

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_MODEL_STEM = "adapter_model"
"""The stem of the file that PEFT saves beside its configuration."""

_LARGEST = 10_000_000
_KINDS = ("LORA", "LOHA", "LOKR", "OFT")
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to begin that take something from the base model's weights, so that the file alone is not the whole change."""
_PLAIN = re.compile(r"(\^?)((?:[\w-]|\\?\.)+)\$?")
_MOST_TERMS = 1000
_MANY = 8
"""Patterns that are no plain names, at most."""


class _AlphaPatterns(NamedTuple):
    """The rows (number, alpha) of `alpha_pattern`: by a layer's name or its end ("^": its whole name), by expressions;
    and the patterns that are not used, since they are none or could take long to match.
    """

    plain: dict[str, tuple[int, object]]
    expressions: list[tuple[tuple[int, object], re.Pattern[str]]]
    ignored: list[str]


@dataclass(frozen=True, eq=False)
class PeftConfig:
    """One PEFT configuration.

    Attributes:
        values: its fields, as PEFT writes them.
        source_name: what messages call it.
    """

    values: Mapping[str, object]
    source_name: str = ADAPTER_CONFIG_NAME

    def scaled(self, adapter: Adapter, name: str) -> Adapter:
        """Gives an adapter the scale that PEFT computes for its layer.

        Args:
            adapter: the adapter as stored.
            name: the layer's dotted name in diffusers' model.

        Returns:
            The adapter with alpha or scale; itself where it stores its own, or where the configuration has none.
        """
        if isinstance(adapter, OftV2):
            terms = self._number(self.values.get("num_cayley_neumann_terms")) or 5
            terms = terms if self.values.get("use_cayley_neumann") is True else 0
            return OftV2({**adapter.tensors, "oft_terms": torch.tensor(int(min(terms, _MOST_TERMS)))})
        alpha, rank = self._alpha(name), adapter.rank or self._number(self.values.get("r"))
        if alpha is None or not rank or {"alpha", "scale"} & adapter.tensors.keys():
            return adapter
        if isinstance(adapter, LoKr):  # PEFT scales it by alpha / r even where both factors are full
            suffix, value = "scale", alpha / rank
        else:
            suffix, value = "alpha", alpha * (math.sqrt(rank) if self.values.get("use_rslora") is True else 1.0)
        if value == (rank if suffix == "alpha" else 1):
            return adapter
        made = adapter_from_tensors({**adapter.tensors, suffix: torch.tensor(float(value))})
        return adapter if made is None else made

    def notes(self) -> list[str]:
        """Returns sentences on what of the configuration is not supported."""
        found = []
        kind, init = self.values.get("peft_type"), self.values.get("init_lora_weights")
        if isinstance(kind, str) and kind not in _KINDS:
            found.append(f"{self.source_name} has peft_type {kind[:40]!r}; accepted are {', '.join(_KINDS)}")
        if isinstance(init, str) and init.lower().startswith(_CHANGE_THE_BASE):
            found.append(
                f"trained from init_lora_weights={init[:40]!r}, which changes the base model's weights too: "
                "its effect differs from training; save it with path_initial_model_for_weight_conversion"
            )
        if kind == "OFT":
            if self.values.get("coft") is True:
                found.append("trained with coft, whose limit of the rotation is not applied")
        elif self._number(self.values.get("lora_alpha", self.values.get("alpha"))) is None:
            found.append(f"{self.source_name} has no lora_alpha, so alpha = rank is assumed")
        if self.values.get("modules_to_save"):
            found.append(
                "modules_to_save are not read: the layers that were trained whole keep the base model's weights"
            )
        if self.values.get("bias") not in (None, "none"):
            found.append(f"trained with bias={str(self.values['bias'])[:40]!r}; the base model's biases are kept")
        if ignored := self._patterns.ignored:
            found.append(f"alpha_pattern {ignored[0][:60]!r} is too complex and is ignored")
        return found

    def _alpha(self, name: str) -> float | None:
        r"""The alpha of the first pattern that fits a layer, by PEFT's rule: `(.*\.)?(pattern)$`."""
        ends = [name, *(name[at + 1 :] for at, letter in enumerate(name) if letter == ".")]
        fitting = [self._patterns.plain[end] for end in (f"^{name}", *ends) if end in self._patterns.plain]
        fitting += [row for row, expression in self._patterns.expressions if expression.match(name)]
        if not fitting:
            return self._number(self.values.get("lora_alpha", self.values.get("alpha")))
        return self._number(min(fitting, key=lambda row: row[0])[1])

    @cached_property
    def _patterns(self) -> _AlphaPatterns:
        found = _AlphaPatterns({}, [], [])
        patterns = self.values.get("alpha_pattern")
        for number, (key, value) in enumerate(patterns.items() if isinstance(patterns, dict) else ()):
            name = _PLAIN.fullmatch(str(key))
            if name:  # as PEFT itself writes them
                found.plain.setdefault(name[1] + name[2].replace("\\.", "."), (number, value))
            elif len(found.expressions) < _MANY and is_bounded_expression(str(key)):
                try:
                    found.expressions.append(((number, value), re.compile(rf"(.*\.)?({key})$")))
                except re.error:
                    found.ignored.append(str(key))
            else:
                found.ignored.append(str(key))
        return found

    @staticmethod
    def _number(value: object) -> float | None:
        sound = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        return float(value) if sound else None  # type: ignore[arg-type]


def find_adapter_config(path: Path) -> Path | None:
    """Finds the `adapter_config.json` that belongs to a file.

    Args:
        path: a file of tensors.

    Returns:
        The configuration beside PEFT's own `adapter_model.*`, or beside the only file of tensors in its folder; None
        where there is none.
    """
    config = path.with_name(ADAPTER_CONFIG_NAME)
    if not config.is_file():
        return None
    if path.stem == ADAPTER_MODEL_STEM:
        return config
    others = (
        one for one in path.parent.iterdir() if one.suffix.lower() in LORA_FILE_SUFFIXES and one.name != path.name
    )
    return config if next(others, None) is None else None


def adapter_config_stamp(path: Path, has_config: dict[Path, bool] | None = None) -> tuple[int, int] | None:
    """Returns the stamp of the configuration that belongs to a file.

    Args:
        path: a file of tensors.
        has_config: folder → whether it has a configuration. It is filled, so that many files look into each folder
            once.

    Returns:
        (mtime in ns, size in bytes); None without a configuration.
    """
    if has_config is not None:
        if path.parent not in has_config:
            has_config[path.parent] = path.with_name(ADAPTER_CONFIG_NAME).is_file()
        if not has_config[path.parent]:
            return None
    try:
        config = find_adapter_config(path)
        status = config.stat() if config else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size) if status else None


def hash_with_adapter_config(own: str, path: Path) -> str:
    """Hashes a file together with the configuration beside it.

    Args:
        own: the file's own hash.
        path: the file.

    Returns:
        12 hex digits; `own` where the configuration cannot be read.
    """
    try:
        return hashlib.sha256(own.encode() + path.with_name(ADAPTER_CONFIG_NAME).read_bytes()).hexdigest()[:12]
    except OSError:
        return own


def find_peft_file(path: Path) -> Path:
    """Finds the file that PEFT saved into a folder.

    Args:
        path: a folder or a file.

    Returns:
        The folder's `adapter_model.*`; `path` itself where it is not a folder of PEFT's.
    """
    files = (
        (path / (ADAPTER_MODEL_STEM + suffix) for suffix in LORA_FILE_SUFFIXES)
        if path.is_dir() and (path / ADAPTER_CONFIG_NAME).is_file()
        else ()
    )
    return next((file for file in files if file.is_file()), path)


def load_adapter_config(path: Path) -> tuple[PeftConfig | None, list[str]]:
    """Loads a PEFT configuration.

    Args:
        path: `adapter_config.json`.

    Returns:
        (the configuration, None where it cannot be read; sentences on what is not supported or could not be read).
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is larger than 10 MB")
        values = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return None, [f"{ADAPTER_CONFIG_NAME} beside it cannot be read ({reason[:100]}): alpha = rank is assumed"]
    config = PeftConfig(values)
    return config, config.notes()
