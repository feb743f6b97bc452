"""Routes of the library: list, look into, metadata, rename."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from ..blocks import BLOCK_LAYOUTS, SDXL_BLOCKS
from ..errors import FileError
from ..file.containers import load_tensors
from ..file.saving import save_safetensors
from ..tools.metadata import edit_metadata
from .app_state import AppState
from .file_marks import MOST_STARS
from .file_moves import rename_file
from .first_file import newest_fitting_file
from .library_query import LibraryQuery
from .library_rows import LibraryRow, LoraFileDetails, inspect_library_file, library_row
from .routing import RequestBody


class EditMetadataRequest(RequestBody):
    """Metadata entries to set and to remove.

    Attributes:
        name: The file's name in the library.
        put: Entries to set: key → value.
        remove: Keys of the entries to remove.
    """

    name: str
    put: dict[str, str] = Field({})
    remove: list[str] = Field([])


class RenameFileRequest(RequestBody):
    """A file's new name.

    Attributes:
        name: The file's name in the library.
        to: The new name; a folder before it moves the file there.
    """

    name: str
    to: str


@dataclass(frozen=True)
class BlockLayoutLabels:
    """The positions of a block-weight vector.

    Attributes:
        labels: The block that each position is for.
    """

    name: str
    labels: list[str]


@dataclass(frozen=True)
class LayoutsAnswer:
    """The layouts of block weights.

    Attributes:
        layouts: Number of block weights → its layout.
        sdxl: The blocks of SDXL's U-Net.
    """

    layouts: dict[str, BlockLayoutLabels]
    sdxl: list[str]


@dataclass(frozen=True)
class LibraryPage:
    """A page of the library.

    Attributes:
        total: How many files match.
        pending: How many files were not read yet.
        facets: As in `FoundFiles`.
        letters: As in `FoundFiles`.
        errors: What is wrong with the folders, a sentence each.
    """

    total: int
    pending: int
    rows: list[LibraryRow]
    facets: dict[str, dict[str, int]]
    letters: dict[str, int]
    errors: list[str]


@dataclass(frozen=True)
class FirstFile:
    """The file that panels begin with.

    Attributes:
        row: The newest file that fits the model, else the newest one; null without any.
    """

    row: LibraryRow | None


@dataclass(frozen=True)
class FileName:
    """The name of a file in the library."""

    name: str


@dataclass(frozen=True)
class FileNames:
    """Names of files in the library, in order."""

    names: list[str]


def query_of_request(
    search: str = Query("", max_length=200),
    base: str = Query("", max_length=40),
    kind: str = Query("", max_length=40),
    rank: int = Query(0, ge=0, le=100000),
    tag: str = Query("", max_length=400),
    folder: str = Query("", max_length=800),
    favourite: bool = Query(False),
    rating: int = Query(0, ge=0, le=MOST_STARS),
    sort: str = Query("newest", max_length=20),
) -> LibraryQuery:
    """What a request's parameters ask for."""
    return LibraryQuery(search, base, kind, rank, tag, folder, favourite, rating, sort)


_QUERY = Depends(query_of_request)
"""A default value, not `Annotated`, which the web UI's FastAPI 0.94 takes for a field of the request's body."""


def register_library_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""

    @api.get("/layouts")
    def layouts() -> LayoutsAnswer:
        """Block labels of each length of a block-weight vector."""
        named = {str(size): BlockLayoutLabels(one.name, list(one.labels)) for size, one in BLOCK_LAYOUTS.items()}
        return LayoutsAnswer(named, list(SDXL_BLOCKS.blocks))

    @api.get("/library")
    def library(
        query: LibraryQuery = _QUERY,
        offset: int = Query(0, ge=0, le=10_000_000),
        limit: int = Query(60, ge=0, le=500),
    ) -> LibraryPage:
        """A page of the library, how many files match, and what there is to filter by."""
        app_state.catalogue.refresh()
        found = app_state.search.find(query)
        errors = [*app_state.library.errors, *filter(None, [app_state.marks.problem])]
        return LibraryPage(
            total=len(found.entries),
            pending=app_state.search.pending_count,
            rows=[library_row(app_state, entry, query.search) for entry in found.entries[offset : offset + limit]],
            facets=found.facets,
            letters=found.letters,
            errors=[app_state.hide_folders(error) for error in errors],
        )

    @api.get("/library/first")
    def first(checkpoint: str = Query("", max_length=800)) -> FirstFile:
        """The file that panels begin with. checkpoint: the model that draws, as in `/native-size`."""
        app_state.catalogue.refresh()
        dim = 0
        with suppress(FileError):  # drawing with it says what is wrong
            dim = app_state.backend.cross_attention_dim(checkpoint)
        entry = newest_fitting_file(app_state, dim)
        return FirstFile(None if entry is None else library_row(app_state, entry))

    @api.get("/library/names")
    def names(query: LibraryQuery = _QUERY) -> FileNames:
        """The names of all files that a query finds, in order."""
        return FileNames([entry.relative_name for entry in app_state.search.find(query).entries])

    @api.get("/inspect")
    def inspect(name: str = Query(..., max_length=800)) -> LoraFileDetails:
        """What a file holds: kind, base, ranks, ‖ΔW‖ of each block, metadata, trigger words."""
        return inspect_library_file(app_state, name)

    @api.post("/metadata")
    def metadata(edit: EditMetadataRequest) -> LoraFileDetails:
        """Sets and removes metadata entries; tensors stay bit-identical, hashes are made anew."""
        entry = app_state.changeable_entry(edit.name)
        contents = load_tensors(entry.path)
        if not contents.tensors or entry.path.suffix.lower() != ".safetensors":
            raise FileError(f"{entry.name} is not a safetensors file, so it cannot hold metadata; convert it first")
        new_metadata = edit_metadata(contents.metadata, contents.tensors, new_entries=edit.put, remove=edit.remove)
        save_safetensors(contents.tensors, entry.path, metadata=new_metadata, overwrite=True)
        app_state.refresh_library()
        return inspect_library_file(app_state, entry.relative_name)

    @api.post("/rename")
    def rename(options: RenameFileRequest) -> FileName:
        """Renames a file together with what lies beside it (pictures, `.json`, `.txt` …)."""
        entry = app_state.changeable_entry(options.name)
        path = rename_file(app_state, entry, options.to)
        app_state.refresh_library()
        name = app_state.library_name(path)
        app_state.marks.rename({entry.relative_name: name})
        return FileName(name)
