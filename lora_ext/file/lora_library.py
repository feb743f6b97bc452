"""The folder index: every LoRA file below some folders, by the names that a prompt may use."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..counted_words import counted
from ..errors import FileError, LoraError, did_you_mean
from ..json_text import parse_json
from . import hashes, peft_config, safetensors_file
from .containers import LORA_FILE_SUFFIXES, container_format
from .displayed_names import displayed_name
from .folder_listing import FileStamp, list_lora_files, load_metadata_quickly, with_unique_names
from .loading import load_lora_file
from .lora_file import LoraFile
from .saving import replacing_file

FORBIDDEN_ALIASES = frozenset({"none", "addams"})
"""Aliases that never count: the built-in extension's own; a name that is one of them means a file's stem."""

_VERSION = 2
_SHORT = 200
"""Characters of a metadata value up to which the index keeps it (tag lists and bucket tables run to megabytes)."""


@dataclass(eq=False)
class LibraryEntry:
    """One file of the index.

    Attributes:
        path: where it is.
        relative_name: the displayed path below its folder of LoRA files, without suffix, with `/`. It begins with
            parent folders where another file has the same one.
        stamp: (mtime in ns, size in bytes) when it was indexed.
        library: the index that it belongs to.
        root: its folder of LoRA files.
        short_metadata: metadata values of at most 200 characters.
        error: why it cannot be read; None where it can.
        digest: the first 12 hex digits of its content's sha256; None while it is not computed.
        config: the stamp of PEFT's `adapter_config.json` that belongs to it; None without one.
    """

    path: Path
    relative_name: str
    stamp: FileStamp
    library: LoraLibrary = field(repr=False)
    root: Path = field(default_factory=Path)
    short_metadata: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    digest: str | None = None
    config: FileStamp | None = None

    @cached_property
    def name(self) -> str:
        """The file's stem as it is shown: what `<lora:name>` calls it; of PEFT's `adapter_model` its folder's name."""
        folder = (
            self.path.parent != self.root
            and self.config is not None
            and self.path.stem == peft_config.ADAPTER_MODEL_STEM
        )
        return displayed_name(self.path.parent.name if folder else self.path.stem)

    @property
    def is_up_to_date(self) -> bool:
        """Whether the file and its configuration are on disk as the index knows them."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        now = (status.st_mtime_ns, status.st_size)
        return now == self.stamp and peft_config.adapter_config_stamp(self.path) == self.config

    @cached_property
    def alias(self) -> str:
        """The trainer's name for it (`ss_output_name`), or the stem."""
        return displayed_name(self.short_metadata.get("ss_output_name", "").strip()) or self.name

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """All metadata, read when first asked for; empty for torch files and for files that cannot be read."""
        try:
            if container_format(self.path) == "safetensors":
                return safetensors_file.load_safetensors_header(self.path).metadata
        except FileError as error:
            self.error = str(error)
        return {}

    @property
    def content_hash(self) -> str:
        """12 hex digits by which the file's effect is known: of the sha256 of its content, and of the configuration
        that holds its strength; "" on error.
        """
        own = self._own_hash()
        return own if not own or self.config is None else peft_config.hash_with_adapter_config(own, self.path)

    def _own_hash(self) -> str:
        """12 hex digits of the content's sha256, computed once and kept in the index; "" on error."""
        if self.digest is None:
            try:
                self.digest = hashes.model_hash(self.path)[:12]
                self.library._is_cache_stale = True
            except FileError as error:
                self.error = str(error)
        return self.digest or ""

    @property
    def hash(self) -> str:
        """12 hex digits by which the web UI knows the file: kohya's in the metadata where that can be believed (see
        `hashes.stored_hash`; no other file here has the same), else of the content; "" on error.
        """
        return self.known_hash or self._own_hash()

    @property
    def known_hash(self) -> str:
        """`hash` where it is known without reading the file, else ""."""
        stored = hashes.stored_hash(self.short_metadata)
        if self.digest is not None or self.library._stored_hashes[stored] > 1:
            return self.digest or ""
        return stored[:12]

    def load(self) -> LoraFile:
        """Loads the file, or returns it from memory while the file on disk is unchanged.

        Returns:
            The file's contents.

        Raises:
            FileError: it cannot be read or is damaged.
        """
        return self.library._load(self.path)


@dataclass(frozen=True)
class LibraryNames:
    """What each name means after one scan of the folders. It is replaced as a whole, so that readers need no lock.

    Attributes:
        stems: stem → file.
        aliases: alias or stem → file.
        relative_names: relative name → file.
        ambiguous: aliases in small letters that several files have; as a name, each means a stem.
        lowercase_tables: relative names, aliases and stems in small letters → file.
    """

    stems: Mapping[str, LibraryEntry]
    aliases: Mapping[str, LibraryEntry]
    relative_names: Mapping[str, LibraryEntry]
    ambiguous: frozenset[str]
    lowercase_tables: tuple[Mapping[str, LibraryEntry], ...]

    @classmethod
    def from_entries(cls, entries: Iterable[LibraryEntry]) -> LibraryNames:
        """Makes the tables as the built-in extension does: an alias that is taken means a stem only.

        Args:
            entries: the files, in the order of the folders.

        Returns:
            The tables.
        """
        stems: dict[str, LibraryEntry] = {}
        aliases: dict[str, LibraryEntry] = {}
        relative_names: dict[str, LibraryEntry] = {}
        ambiguous = set(FORBIDDEN_ALIASES)
        for entry in entries:
            relative_names[entry.relative_name] = entry
            stems.setdefault(displayed_name(entry.path.stem), entry)
            stems[entry.name] = entry
            if entry.alias in aliases:
                ambiguous.add(entry.alias.lower())
            aliases[entry.name] = entry
            aliases[entry.alias] = entry
        for entry in list(
            relative_names.values()
        ):  # one at the top can be meant beside another of its name in a folder
            relative_names.setdefault(f"{displayed_name(entry.root.name)}/{entry.relative_name}", entry)
        folded = tuple(
            {key.lower(): entry for key, entry in table.items()} for table in (relative_names, aliases, stems)
        )
        return cls(stems, aliases, relative_names, frozenset(ambiguous), folded)

    def look_up(self, name: str) -> LibraryEntry | None:
        """Finds the file that a name means: with exactly these letters first, then without regard to case.

        Args:
            name: an alias, stem or relative name, with or without suffix.

        Returns:
            The file; None where there is none.
        """
        # blanks belong to a name, as in the web UI, which finds no file `x` by `<lora: x:1>`
        plain = displayed_name(name).replace("\\", "/").lstrip("/")
        relative_names, aliases, stems = zip(
            (self.relative_names, self.aliases, self.stems), self.lowercase_tables, strict=True
        )
        for suffix in ("", *LORA_FILE_SUFFIXES):
            if suffix and not plain.lower().endswith(suffix):
                continue
            bare = plain[: len(plain) - len(suffix)]
            ambiguous = bare.lower() in self.ambiguous
            tables = (
                [relative_names]
                if "/" in bare
                else [stems, relative_names]
                if ambiguous
                else [aliases, stems, relative_names]
            )
            for key, which in ((bare, 0), (bare.lower(), 1)):
                for table in tables:
                    if key in table[which]:
                        return table[which][key]
        return None


class LoraLibrary:
    """The index of the LoRA files below some folders.

    Files of later folders take precedence over files of the same name in earlier ones, as in the built-in extension.

    Args:
        folders: the folders.
        cache_path: a JSON file that keeps the index between starts; None for none.
        max_loaded: how many loaded files stay in memory.
        optional: folders that need not exist, such as a program's own default.

    Attributes:
        entries: the files, in order.
        errors: a sentence for each folder that cannot be read.
        version: changes whenever a scan of the folders finds other files than before.

    Example:
        >>> from lora_ext.embedded import LORA_DIR
        >>> library = LoraLibrary([LORA_DIR])
        >>> library.find("STRIPED").relative_name
        'striped'
    """

    def __init__(
        self,
        folders: Iterable[str | Path],
        *,
        cache_path: str | Path | None = None,
        max_loaded: int = 4,
        optional: Iterable[Path] = (),
    ) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.optional = frozenset(optional)
        self.cache_path = Path(cache_path) if cache_path else None
        self.max_loaded = max(1, max_loaded)
        self.entries: list[LibraryEntry] = []
        self.errors: list[str] = []
        self.version = 0
        """Another number whenever a look at the folders found other files than before."""
        self._known: dict[str, LibraryEntry] = {}
        self._loaded: OrderedDict[tuple[object, ...], LoraFile] = OrderedDict()
        self._lock = threading.RLock()
        self._is_cache_stale = False
        self._names = LibraryNames.from_entries(())
        self._stored_hashes: Counter[str] = Counter()
        """How many files have each hash in their metadata."""
        self.refresh()

    def refresh(self) -> None:
        """Scans the folders again. Only new and changed files are opened."""
        with self._lock:
            stored = self._load_cache() if not self._known else {}
            known, self.errors, entries = self._known, [], []
            folders_with_config: dict[Path, bool] = {}
            for path, relative_name, stamp, root in with_unique_names(
                list_lora_files(self.folders, self.errors, self.optional)
            ):
                entry = known.get(str(path))
                config = peft_config.adapter_config_stamp(path, folders_with_config)
                if entry is None or (entry.stamp, entry.relative_name, entry.config) != (stamp, relative_name, config):
                    entry = self._entry(path, relative_name, stamp, stored.get(str(path)))
                    entry.root, entry.config = root, config
                entries.append(entry)
            self._is_cache_stale |= len(entries) != len(known or stored)
            self.version += entries != self.entries
            self.entries = entries
            self._known = {str(entry.path): entry for entry in entries}
            self._names = LibraryNames.from_entries(entries)
            self._stored_hashes = Counter(hashes.stored_hash(entry.short_metadata) for entry in entries)
            self.save_cache()

    def find(self, name: str) -> LibraryEntry:
        """Finds the file that a name in a prompt means.

        Exact letters come first, then any case. The folders are scanned again before the search fails.

        Args:
            name: alias or stem (the last of several files), or `sub/folder/stem`.

        Returns:
            The file.

        Raises:
            FileError: no file has this name; the message names the nearest.
        """
        with self._lock:
            entry = self._names.look_up(name)
            if entry is None:
                self.refresh()
                entry = self._names.look_up(name)
            if entry is None:
                hint = self._shared_alias(name) or did_you_mean(name, self.names()) or self._where()
                raise FileError(f"no LoRA is called {name!r}{hint}")
            return entry

    def look_up(self, name: str) -> LibraryEntry | None:
        """Finds the file that a name in a prompt means, as the index knows it; the folders are not scanned.

        Args:
            name: as for `find`.

        Returns:
            The file; None where there is none.
        """
        return self._names.look_up(name)

    def find_by_relative_name(self, relative_name: str) -> LibraryEntry:
        """Finds a file by its relative name, else as `find` does.

        Args:
            relative_name: as in `LibraryEntry.relative_name`.

        Returns:
            The file.

        Raises:
            FileError: no file has this name; the message names the nearest.
        """
        return self._names.relative_names.get(displayed_name(relative_name)) or self.find(relative_name)

    def find_current(self, name: str, *, by_relative_name: bool = False) -> LibraryEntry:
        """Finds a file as `find` does, and indexes the folders again where the file on disk has changed since.

        Args:
            name: the name in a prompt, or the relative name.
            by_relative_name: look up relative names first, as `find_by_relative_name` does.

        Returns:
            The entry with the present stamp.

        Raises:
            FileError: no file has this name; the message names the nearest.
        """
        find = self.find_by_relative_name if by_relative_name else self.find
        entry = find(name)
        if entry.is_up_to_date:
            return entry
        self.refresh()
        return find(name)

    def load(self, name: str) -> LoraFile:
        """Loads the file that a name in a prompt means.

        Args:
            name: as for `find`.

        Returns:
            The file's contents.

        Raises:
            FileError: no file has this name, or it cannot be read.
        """
        return self.find(name).load()

    def names(self) -> list[str]:
        """Returns every name that `find` accepts, without relative names, in order."""
        now = self._names
        return sorted(now.stems.keys() | {alias for alias in now.aliases if alias.lower() not in now.ambiguous})

    def ambiguity(self, name: str) -> str:
        """Describes which of several files of one name is used, and what the others are called.

        Args:
            name: a name in a prompt.

        Returns:
            A sentence; "" for a name that one file has.
        """
        found, given = self._names.look_up(name), displayed_name(name)
        suffix = next((s for s in LORA_FILE_SUFFIXES if given.lower() == found.name.lower() + s), "") if found else ""
        given = given[: len(given) - len(suffix)]
        if found is None or given.lower() != found.name.lower():  # an alias or a relative name
            return ""
        others = [e for e in self.entries if e is not found and e.name.lower() == given.lower()]
        if suffix:
            others = [e for e in others if e.path.suffix.lower() == suffix]
        if given == found.name:
            others = [e for e in others if e.name == given]
        if not others:
            return ""
        more = f" or {len(others) - 3} more" if len(others) > 3 else ""
        return (
            f"{len(others) + 1} files are called {found.name!r}; {found.relative_name!r} is used; "
            f"write {', '.join(repr(self.shortest_name(e)) for e in others[:3])}{more} for another"
        )

    def shortest_name(self, entry: LibraryEntry) -> str:
        """Returns the shortest name by which `find` returns this entry.

        Args:
            entry: a file of this index.

        Returns:
            Its stem, alias or relative name, or that below its folder of LoRA files.
        """
        for name in (
            entry.name,
            entry.alias,
            entry.relative_name,
            f"{displayed_name(entry.root.name)}/{entry.relative_name}",
        ):
            if self._names.look_up(name) is entry:
                return name
        return entry.relative_name

    def means(self, name: str, entry: LibraryEntry) -> bool:
        """Returns whether a name in a prompt means this entry."""
        return self._names.look_up(name) is entry

    def save_cache(self) -> None:
        """Writes the JSON cache where it changed. Errors are ignored: the next start then scans the files again."""
        if self.cache_path is None or not self._is_cache_stale:
            return
        there = [entry for entry in self.entries if entry.stamp != (0, 0)]
        rows = {str(e.path): [*e.stamp, dict(e.short_metadata), e.error, e.digest] for e in there}
        with contextlib.suppress(LoraError, OSError), replacing_file(self.cache_path, overwrite=True) as part:
            part.write_text(json.dumps({"version": _VERSION, "files": rows}), encoding="utf-8")
            self._is_cache_stale = False

    def _shared_alias(self, name: str) -> str:
        """The files that a trainer gave one name, such as the epochs of a run; "" for a name that is not theirs."""
        shared = [entry for entry in self.entries if entry.alias.lower() == displayed_name(name).lower()]
        if len(shared) < 2:
            return ""
        more = f" or {len(shared) - 3} more" if len(shared) > 3 else ""
        names = ", ".join(repr(self.shortest_name(entry)) for entry in shared[:3])
        return f"; {len(shared)} files were given that name by their trainer; write {names}{more}"

    def _where(self) -> str:
        folders = ", ".join(map(str, self.folders)) or "(no folder)"
        return f"; {counted(len(self.entries), 'file is', 'files are')} indexed below {folders}"

    # --- the disk ----------------------------------------------------------------------------------------------------

    def _entry(self, path: Path, relative_name: str, stamp: FileStamp, row: object) -> LibraryEntry:
        """From the cache's row where the stamp is the same, else from the file's own first bytes."""
        entry = LibraryEntry(path, relative_name, stamp, self)
        if isinstance(row, list) and len(row) == 5 and tuple(row[:2]) == stamp and _are_kept(*row[2:]):
            entry.short_metadata, entry.error, entry.digest = row[2:]
            return entry
        self._is_cache_stale = True
        try:
            metadata = load_metadata_quickly(path)
            entry.short_metadata = {key: value for key, value in metadata.items() if len(value) <= _SHORT}
        except FileError as error:
            entry.error = str(error)
        return entry

    def _load_cache(self) -> Mapping[str, object]:
        """The cache's rows; none where it is missing, damaged or of another version."""
        if self.cache_path is None:
            return {}
        try:
            content: Any = parse_json(self.cache_path.read_text(encoding="utf-8"))
            if content["version"] == _VERSION and isinstance(content["files"], dict):
                return content["files"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return {}

    def _load(self, path: Path) -> LoraFile:
        with self._lock:
            companions = (
                [path.with_suffix(f".{part}.pt") for part in ("text_encoder", "ti")] if path.suffix == ".pt" else []
            )
            companions.append(path.with_name(peft_config.ADAPTER_CONFIG_NAME))
            try:
                stats = [p.stat() for p in (path, *companions) if p is path or p.exists()]
            except OSError as error:
                raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
            key = (str(path), *((status.st_mtime_ns, status.st_size) for status in stats))
            file = self._loaded.pop(key, None)
            if file is None:
                for old in [k for k in self._loaded if k[0] == key[0]]:
                    del self._loaded[old]
                file = load_lora_file(path)
            self._loaded[key] = file
            while len(self._loaded) > self.max_loaded:
                self._loaded.popitem(last=False)
            return file


def _are_kept(metadata: object, error: object, digest: object) -> bool:
    """Whether the cache holds what it was given: somebody else may have written it."""
    texts = [*metadata, *metadata.values()] if isinstance(metadata, dict) else [None]
    return all(isinstance(text, str) for text in texts) and all(isinstance(x, str | None) for x in (error, digest))
