"""A JSON object in a file of the data folder, which several programs may read and change."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import FileError, LoraError
from ..file.file_lock import exclusive_lock
from ..file.saving import replacing_file
from ..json_text import parse_json


def taken_since(name: str) -> str:
    """The message where something that was deleted would be put back over another one of its name."""
    return f"{name!r} was saved again since it was deleted; rename or delete that one first"


class JsonStore:
    """Reads and changes the file. Each call reads it anew.

    Args:
        path: The file; it need not exist.
        error: What is raised where it is damaged.
    """

    def __init__(self, path: Path, error: type[LoraError] = FileError) -> None:
        self.path, self._error = path, error

    def load(self) -> dict[str, Any]:
        """What the file holds; the types of its values are for the caller to check.

        Returns:
            The object; empty without a file.

        Raises:
            LoraError: The file is damaged; it stays as it is.
        """
        try:
            found = parse_json(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._error(f"{self.path.name} cannot be read: {error}") from error
        if not isinstance(found, dict):
            raise self._error(f"{self.path.name} cannot be read: it must be a JSON object")
        return found

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """Locks the file and yields what it holds, to be changed; it is written afterwards, whole or not at all.

        Yields:
            The object.

        Raises:
            LoraError: The file is damaged, or cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.path):
            found = self.load()
            yield found
            with replacing_file(self.path, overwrite=True) as part:
                part.write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8", errors="replace")
