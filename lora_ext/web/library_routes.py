"""Routes of the library: list, look into, metadata, rename, duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Query
from pydantic import Field

from ..blocks import LAYOUTS, SDXL
from ..errors import FileError
from ..file import hashes
from ..file.containers import read_tensors
from ..file.folder_listing import natural
from ..file.lora_library import Entry
from ..file.peft_config import NAME
from ..file.saving import HeldFile, check_not_linked, move_onto, write_tensors
from ..inspect_file import report, top_tags, warnings
from ..jobs import Job
from ..tools.metadata import edited
from .app_state import Studio
from .routing import Body
from .thumbnails import THUMBS, thumbnail
from .user_paths import checked, made

SORTS: dict[str, Callable[[Entry], Any]] = {
    "newest": lambda entry: (-entry.stamp[0],),
    "oldest": lambda entry: (entry.stamp[0],),
    "name": lambda entry: natural(entry.place),
    "largest": lambda entry: (-entry.stamp[1],),
}


class Edit(Body):
    """Metadata entries to set and to remove. name: as the library calls the file."""

    name: str
    put: dict[str, str] = Field({})
    remove: list[str] = Field([])


class Rename(Body):
    """A new name; a folder before it moves the file there."""

    name: str
    to: str


def row(studio: Studio, entry: Entry) -> dict[str, Any]:
    """One file as a list shows it; what is not known yet is None."""
    known = studio.catalogue.known(entry) or {}
    wrong = entry.error or known.get("error")
    beside = thumbnail(entry.path)
    return {
        "name": entry.place,
        "call": studio.library.call(entry),
        "title": entry.name,
        "alias": entry.alias,
        "bytes": entry.stamp[1],
        "time": entry.stamp[0] / 1e9,
        "base": known.get("base"),
        "kind": known.get("kind"),
        "rank": known.get("rank"),
        "mixed": known.get("mixed", False),
        "error": studio.nameless(wrong) if wrong else None,
        "thumb": beside.stat().st_mtime if beside else None,
    }


def words(metadata: Mapping[str, str]) -> list[str]:
    """Trigger words as a trainer or a model site wrote them, and the most frequent caption tags after them."""
    said = metadata.get("modelspec.trigger_phrase", "") or metadata.get("ss_trigger_words", "")
    found = [word.strip() for word in said.split(",")] + list(top_tags(metadata, 12))
    return list(dict.fromkeys(word for word in found if word))[:16]


def look(studio: Studio, name: str) -> dict[str, Any]:
    """Everything about one file: `inspect`'s report, trigger words, and the block layouts that fit it."""
    entry = studio.entry(name)
    found = dict(studio.remembered("inspect", entry, lambda: report(entry.path)))
    studio.catalogue.of(entry)
    blocks = {one["block"] for one in found["blocks"]}
    sizes = (12, 20) if found["family"] == "SDXL" else (17, 26)
    fits = blocks - {""} <= set(LAYOUTS[sizes[0]].labels)
    found |= {
        **row(studio, entry),
        "path": entry.place + entry.path.suffix,
        "words": words(found["metadata"]),
        "warnings": [studio.nameless(text) for text in warnings(found)],
        "layouts": list(sizes),
        "layout": sizes[0] if fits else sizes[1],
    }
    return found


def add(api: APIRouter, studio: Studio) -> None:
    """Adds the routes."""

    @api.get("/layouts")
    def layouts() -> dict[str, Any]:
        """Block labels of each length of a block-weight vector."""
        return {
            "layouts": {str(size): {"name": one.name, "labels": list(one.labels)} for size, one in LAYOUTS.items()},
            "sdxl": list(SDXL.blocks),
        }

    @api.get("/library")
    def library(
        search: str = Query("", max_length=200),
        base: str = Query("", max_length=40),
        kind: str = Query("", max_length=40),
        rank: int = Query(0, ge=0, le=100000),
        sort: str = Query("newest", max_length=20),
        offset: int = Query(0, ge=0, le=10_000_000),
        limit: int = Query(60, ge=0, le=500),
    ) -> dict[str, Any]:
        """A page of the library, how many files match, and what there is to filter by."""
        studio.catalogue.refresh()
        wanted = search.casefold().split()
        known = studio.catalogue.known
        matching, facets = [], {"base": Counter[str](), "kind": Counter[str](), "rank": Counter[str]()}
        for entry in studio.library.entries:
            text = f"{entry.place} {entry.alias}".casefold()
            if not all(word in text for word in wanted):
                continue
            about = known(entry) or {}
            for name, counter in facets.items():
                if about.get(name):
                    counter[str(about[name])] += 1
            if (base and about.get("base") != base) or (kind and about.get("kind") != kind):
                continue
            if not rank or about.get("rank") == rank:
                matching.append(entry)
        matching.sort(key=SORTS.get(sort, SORTS["newest"]))
        return {
            "total": len(matching),
            "pending": studio.catalogue.pending,
            "rows": [row(studio, entry) for entry in matching[offset : offset + limit]],
            "facets": {name: dict(counter.most_common()) for name, counter in facets.items()},
            "errors": [studio.nameless(error) for error in studio.library.errors],
        }

    @api.get("/inspect")
    def inspect(name: str = Query(..., max_length=800)) -> dict[str, Any]:
        """What a file holds: kind, base, ranks, ‖ΔW‖ of each block, metadata, trigger words."""
        return look(studio, name)

    @api.post("/metadata")
    def metadata(edit: Edit) -> dict[str, Any]:
        """Sets and removes metadata entries; tensors stay bit-identical, hashes are made anew."""
        entry = studio.changeable(edit.name)
        contents = read_tensors(entry.path)
        if not contents.tensors or entry.path.suffix.lower() != ".safetensors":
            raise FileError(f"{entry.name} is no safetensors file and holds no metadata; convert it first")
        made = edited(contents.metadata, contents.tensors, put=edit.put, remove=edit.remove)
        write_tensors(contents.tensors, entry.path, metadata=made, overwrite=True)
        studio.changed()
        return look(studio, entry.place)

    @api.post("/rename")
    def rename(wish: Rename) -> dict[str, Any]:
        """Renames a file together with what lies beside it (thumbnail, `.json`, `.txt`)."""
        entry = studio.changeable(wish.name)
        path = move(studio, entry, wish.to)
        studio.changed()
        return {"name": studio.place(path)}

    @api.post("/duplicates", status_code=202)
    def duplicates() -> dict[str, Any]:
        """Looks for files with the same numbers, by their content. Answers with a job."""
        return studio.jobs.start("duplicates", "Files", lambda job: same(studio, job)).as_json(brief=True)


def move(studio: Studio, entry: Entry, to: str) -> Path:
    """Renames within the file's own folder of LoRA files; the new path. Raises FileError."""
    if entry.config is not None:
        raise FileError(
            f"the strength of {entry.name} stands in {NAME} beside it, which it would lose: rename its folder, or "
            "convert it to a file of its own"
        )
    suffix = entry.path.suffix
    relative = checked(to[: -len(suffix)] if to.lower().endswith(suffix.lower()) else to)
    root = entry.root
    target = root.joinpath(*relative.parts[:-1], relative.name + suffix)
    check_not_linked(target.parent, root)
    if target.exists() and not target.samefile(entry.path):
        raise FileError(f"{relative} is there already; choose another name")
    made(target.parent)
    moves = [(entry.path, target)]
    for mark in (*THUMBS, ".json", ".txt", ".civitai.info"):
        beside, new = entry.path.with_name(entry.path.stem + mark), target.with_name(target.stem + mark)
        if beside.is_file() and not new.exists():
            moves.append((beside, new))
    _move_all(moves, entry.name)
    return target


def _move_all(moves: Sequence[tuple[Path, Path]], name: str) -> None:
    """Renames every file or none. Raises FileError."""
    done: list[tuple[Path, Path]] = []
    try:
        for old, new in moves:
            move_onto(old, new)
            done.append((old, new))
    except (OSError, HeldFile) as error:
        for old, new in reversed(done):
            move_onto(new, old)
        if isinstance(error, HeldFile):
            what = old.name if done else name
            raise HeldFile(
                f"{name} cannot be renamed: another program has {what} open (the web UI, if it has used it); close it "
                "there and try again, nothing was changed"
            ) from error
        raise FileError(f"{name} cannot be renamed: {error.strerror or error}") from error


def same(studio: Studio, job: Job) -> dict[str, Any]:
    """Groups of files whose numbers are the same, whatever their names and metadata say.

    Sizes and short samples tell most files apart; only those that agree there are read whole, once.
    """
    entries = list(studio.library.entries)
    alike: dict[tuple[int, str], list[Entry]] = {}
    for done, entry in enumerate(entries):
        job.progress(done, len(entries), entry.name)
        if entry.error is None:
            with suppress(FileError):
                alike.setdefault(hashes.quick_key(entry.path), []).append(entry)
    candidates = [entry for group in alike.values() if len(group) > 1 for entry in group]
    groups: dict[str, list[Entry]] = {}
    for done, entry in enumerate(candidates):
        job.progress(done, len(candidates), entry.name)
        groups.setdefault(entry.content, []).append(entry)
    job.progress(len(entries), len(entries))
    studio.library.save()
    found = [group for digest, group in groups.items() if digest and len(group) > 1]
    return {"groups": [[row(studio, entry) for entry in group] for group in found], "files": len(entries)}
