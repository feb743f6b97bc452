"""`LoraFile`: what a LoRA-family file says, as adapters by site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..adapters import Adapter
from ..address import Site


@dataclass(frozen=True, eq=False)
class LoraFile:
    """Adapters by site, and everything else a file holds, so that it can be written again unchanged.

    keys: (site, suffix) → the key as the file spells it; absent for adapters made here, which are then
    written in kohya's spelling. embeddings: name → vector name → tensor (`bundle_emb.*`, cloneofsimo's
    token tensors). unread: keys that name no known layer or kind, kept and written back.
    """

    adapters: Mapping[Site, Adapter]
    metadata: Mapping[str, str] = field(default_factory=dict)
    embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    unread: Mapping[str, Tensor] = field(default_factory=dict)
    keys: Mapping[tuple[Site, str], str] = field(default_factory=dict)
    dialect: str = "kohya"
    path: Path | None = None

    @property
    def name(self) -> str:
        """The file's stem: what `<lora:name>` calls it."""
        return self.path.stem if self.path else "unnamed"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of adapter in it, most frequent first."""
        kinds = [adapter.kind for adapter in self.adapters.values()]
        return tuple(sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind)))
