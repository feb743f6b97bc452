"""The user's block-weight presets: a file of lines `NAME:v,v,…` outside everything that an update replaces."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..adapter_spec import Presets
from ..block_weights import BLOCK_PRESETS, parse_block_presets, parse_block_weights
from ..errors import BlockError, did_you_mean
from ..file.file_lock import exclusive_lock
from ..file.preset_file import load_preset_file
from ..file.saving import replacing_file
from .json_store import taken_since

PRESETS_FILE = "presets.txt"
_LONGEST = 64


@dataclass(frozen=True)
class PresetRow:
    """A block-weight preset.

    Attributes:
        values: Its weights, as a tag has them.
        own: Whether it is the user's own, which can be changed.
        builtin: Whether it comes with this program.
        place: Its place among the user's own; None for the others.
    """

    name: str
    values: str
    own: bool
    builtin: bool
    place: int | None = None


class PresetStore:
    """All presets by name; the user's own can be changed. read: all presets as the host merges them."""

    def __init__(self, folder: Path, load_presets: Callable[[], Presets]) -> None:
        self.path, self._read = folder / PRESETS_FILE, load_presets

    def rows(self) -> list[PresetRow]:
        """All presets, built-in ones first."""
        own = self.own_presets()
        places = {name: place for place, name in enumerate(own)}
        return [
            PresetRow(name, values, own=name in own, builtin=name in BLOCK_PRESETS, place=places.get(name))
            for name, values in {**self._read().weights, **own}.items()
        ]

    def own_presets(self) -> dict[str, str]:
        """The user's own, as they stand in the file."""
        return load_preset_file(self.path)[0]

    def save(self, presets: Mapping[str, str]) -> None:
        """Adds or replaces. Raises BlockError for a name or weights that a prompt could not hold."""
        for name, values in presets.items():
            _check(name, values)
        with self._changing() as own:
            own.update(presets)

    def put_back(self, name: str, values: str, place: int) -> None:
        """Adds one that was deleted in its place again. Raises BlockError, also where the name was taken since."""
        _check(name, values)
        with self._changing() as own:
            if name in own:
                raise BlockError(taken_since(name))
            rows = list(own.items())
            rows.insert(place, (name, values))
            own.clear()
            own.update(rows)

    def remove(self, name: str) -> None:
        """Takes one of the user's own away. Raises BlockError."""
        with self._changing() as own:
            self._check_own(name, own)
            del own[name]

    def rename(self, name: str, to: str) -> None:
        """Gives one of the user's own another name, in its place. Raises BlockError."""
        with self._changing() as own:
            self._check_own(name, own)
            _check(to, own[name])
            if to != name and to in own:
                raise BlockError(f"a preset {to!r} already exists; choose another name")
            renamed = {to if key == name else key: values for key, values in own.items()}
            own.clear()
            own.update(renamed)

    def export_text(self) -> str:
        """The user's own as the file's text, for export."""
        return _lines(self.own_presets())

    def import_text(self, text: str) -> list[str]:
        """Imports lines `NAME:v,v,…`; the names taken.

        Raises BlockError that quotes the first line that is wrong, and where one would replace other weights.
        """
        found, own = parse_block_presets(text), self.own_presets()
        if not found:
            raise BlockError("no line has the form NAME:1,0,1,…")
        other = next((name for name, values in found.items() if own.get(name, values) != values), None)
        if other is not None:
            raise BlockError(
                f"a preset {other!r} already exists with other weights; rename or delete it first, nothing was imported"
            )
        self.save(found)
        return list(found)

    def _check_own(self, name: str, own: Mapping[str, str]) -> None:
        if name not in own:
            known = "is not one of your own and cannot be changed" if name in self._read().weights else "does not exist"
            raise BlockError(f"the preset {name[:_LONGEST]!a} {known}{did_you_mean(name, own)}")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, str]]:
        """The user's own presets, to be changed; they are written afterwards. Others who change them wait meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.path):
            own = self.own_presets()
            yield own
            with replacing_file(self.path, overwrite=True) as part:
                part.write_text(_lines(own), encoding="utf-8")


def _lines(presets: Mapping[str, str]) -> str:
    return "".join(f"{name}:{values}\n" for name, values in presets.items())


def _check(name: str, values: str) -> None:
    if not name or len(name) > _LONGEST or re.search(r"[:,<>\s]", name) or name[0] == "#" or not name.isprintable():
        raise BlockError(
            f"{name[:_LONGEST]!a} cannot be a preset's name: give 1 to {_LONGEST} characters without spaces, : , < >"
        )
    if re.fullmatch(r"[-+.\d]+", name):
        raise BlockError(f"{name!r} cannot be a preset's name: it is a number")
    if "\n" in values or "\r" in values or not values.isprintable():
        raise BlockError(f"the weights of {name!r} must be numbers in one line")
    parse_block_weights(values, presets={})
