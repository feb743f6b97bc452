"""What is known about a checkpoint beside its tensors: the LDM configuration next to it, and what the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FileError


@dataclass(frozen=True)
class CheckpointHints:
    """What is known about a checkpoint beside its tensors.

    Attributes:
        yaml: the LDM or sgm configuration, as `load_ldm_config` returns it; empty where there is none.
        text_configs: for each text encoder the entries of its `config.json` (transformers).
        prediction: what the U-Net predicts, "epsilon" or "v"; None where nobody says.
    """

    yaml: Mapping[str, Any] = field(default_factory=dict)
    text_configs: Sequence[Mapping[str, Any]] = ()
    prediction: str | None = None

    def params(self, *path: str) -> Mapping[str, Any]:
        """Returns `model.params.<path>….params` of the configuration, empty where it has none.

        Example:
            >>> hints = CheckpointHints({"model": {"params": {"unet_config": {"params": {"num_heads": 8}}}}})
            >>> hints.params("unet_config")
            {'num_heads': 8}
        """
        node: Any = self.yaml.get("model", {}).get("params", {})
        for name in path:
            node = (node.get(name) or {}).get("params", {}) if isinstance(node, Mapping) else {}
        return node if isinstance(node, Mapping) else {}


def load_ldm_config(path: Path) -> Mapping[str, Any]:
    """Loads an LDM or sgm configuration, the `.yaml` that lies beside a checkpoint.

    Raises:
        FileError: the file cannot be read, is not YAML, or has no `model:`.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError, yaml.YAMLError) as error:
        # values that are no dates or numbers come out of PyYAML as Python's own errors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FileError(f"{path} is not a readable configuration: {reason}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise FileError(f"{path} is not a configuration of a Stable Diffusion model (it has no `model:`)")
    return content
