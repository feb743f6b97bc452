"""Routes that change files of the library, one or many: marks, notes, moves, the bin, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import Field

from ..errors import FileError
from ..file.containers import load_tensors
from ..file.lora_library import LibraryEntry
from ..file.saving import save_safetensors
from ..file.sidecar_files import LONGEST_TEXT, MOST_WEIGHT, save_user_metadata
from ..jobs import Job, JobSummary
from ..tools.metadata import edit_metadata
from .app_state import AppState
from .file_marks import MOST_STARS
from .file_moves import ChangedFiles, MovedFiles, bin_function, delete_file, for_each_file, move_files
from .library_rows import LoraFileDetails, inspect_library_file
from .prompt_insertion import InsertedPrompt, insert_library_file
from .routing import RequestBody

MOST_CHANGED_FILES = 20_000


class NotesRequest(RequestBody):
    """What the web UI's `NAME.json` gets; null leaves a field as it is.

    Attributes:
        name: The file's name in the library.
        description: The description.
        activation_text: The trigger words.
        preferred_weight: The preferred weight; 0 for none.
        negative_text: Words for the negative prompt.
        notes: The notes.
    """

    name: str
    description: str | None = Field(None, max_length=LONGEST_TEXT)
    activation_text: str | None = Field(None, max_length=LONGEST_TEXT)
    preferred_weight: float | None = Field(None, ge=-MOST_WEIGHT, le=MOST_WEIGHT)
    negative_text: str | None = Field(None, max_length=LONGEST_TEXT)
    notes: str | None = Field(None, max_length=LONGEST_TEXT)


class MarksRequest(RequestBody):
    """Marks that some files get; null leaves a mark as it is.

    Attributes:
        names: The files' names in the library.
        favourite: Whether they are favourites.
        rating: Stars; 0 for none.
        add_tags: Tags that they get.
        remove_tags: Tags that they lose.
    """

    names: list[str]
    favourite: bool | None = None
    rating: int | None = Field(None, ge=0, le=MOST_STARS)
    add_tags: list[str] = Field([])
    remove_tags: list[str] = Field([])


class MoveRequest(RequestBody):
    """A file and its new name.

    Attributes:
        name: The file's name in the library.
        to: The new name; a folder before it moves the file there.
    """

    name: str
    to: str


class MovesRequest(RequestBody):
    """Files and their new names.

    Attributes:
        moves: The files, each with its new name.
    """

    moves: list[MoveRequest]


class FilesRequest(RequestBody):
    """Names of files.

    Attributes:
        names: The files' names in the library.
    """

    names: list[str]


class InsertRequest(RequestBody):
    """A file, and the prompts that its tag and words are put into.

    Attributes:
        name: The file's name in the library.
        prompt: The prompt as it is.
        negative: The negative prompt as it is.
    """

    name: str
    prompt: str = Field("", max_length=100_000)
    negative: str = Field("", max_length=100_000)


@dataclass(frozen=True)
class MarkedFiles:
    """How many files were marked."""

    count: int


def _checked(names: Sequence[object]) -> None:
    if not 1 <= len(names) <= MOST_CHANGED_FILES:  # the web UI's pydantic takes no bounds of a list
        raise FileError(f"give 1 to {MOST_CHANGED_FILES} files, not {len(names)}")


def _title(names: Sequence[str]) -> str:
    """What a job about some files is called in the list of jobs."""
    return names[0][:80] if len(names) == 1 else f"{len(names)} ×"


def strip_metadata(entry: LibraryEntry) -> None:
    """Removes a file's metadata, except what its tensors cannot be read without. Raises FileError."""
    contents = load_tensors(entry.path)
    if entry.path.suffix.lower() != ".safetensors" or not contents.tensors:
        raise FileError(f"{entry.name} is not a safetensors file; convert it first")
    kept = edit_metadata(contents.metadata, contents.tensors, strip=True)
    save_safetensors(contents.tensors, entry.path, metadata=kept, overwrite=True)


def register_library_change_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""

    @api.put("/library/notes")
    def notes(options: NotesRequest) -> LoraFileDetails:
        """Writes description, trigger words, preferred weight, negative text and notes where the web UI keeps them."""
        entry = app_state.changeable_entry(options.name)
        given = {name: getattr(options, name) for name in options.__dict__ if name != "name"}
        changes = {name: value for name, value in given.items() if value is not None}
        save_user_metadata(entry.path, changes, app_state.folders.data / "user_metadata")
        app_state.refresh_library()
        return inspect_library_file(app_state, entry.relative_name)

    @api.put("/library/marks")
    def marks(options: MarksRequest) -> MarkedFiles:
        """Marks files: favourite, rating, tags."""
        _checked(options.names)
        entries = [app_state.entry(name) for name in options.names]
        app_state.marks.change(
            {entry.relative_name: app_state.search.info(entry) for entry in entries},
            favourite=options.favourite,
            rating=options.rating,
            add_tags=options.add_tags,
            remove_tags=options.remove_tags,
        )
        return MarkedFiles(len(entries))

    @api.post("/library/move")
    def move(options: MovesRequest) -> MovedFiles:
        """Moves files within their folders of LoRA files, with what lies beside them. Nothing is overwritten."""
        _checked(options.moves)
        return move_files(app_state, [(one.name, one.to) for one in options.moves])

    @api.post("/library/delete", status_code=202)
    def delete(options: FilesRequest) -> JobSummary:
        """Moves files, with what lies beside them, to the system's bin. Answers with a job."""
        _checked(options.names)
        send = bin_function()
        names = list(options.names)

        def work(job: Job) -> ChangedFiles:
            return for_each_file(app_state, names, lambda entry: delete_file(entry, send), job.progress)

        return app_state.jobs.start("delete", _title(names), work).summary()

    @api.post("/library/strip", status_code=202)
    def strip(options: FilesRequest) -> JobSummary:
        """Removes the metadata of files; their weights stay bit-identical. Answers with a job."""
        _checked(options.names)
        names = list(options.names)

        def work(job: Job) -> ChangedFiles:
            return for_each_file(app_state, names, strip_metadata, job.progress)

        return app_state.jobs.start("strip", _title(names), work).summary()

    @api.post("/library/insert")
    def insert(options: InsertRequest) -> InsertedPrompt:
        """The prompts with a file's tag at its preferred weight, its trigger words and its negative text."""
        return insert_library_file(app_state, options.name, options.prompt, options.negative)
