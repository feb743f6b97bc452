"""Files that the page sends in pieces, as pictures, captions or zips, until they are added to a data set."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..counted_words import counted
from ..errors import FileError
from ..file.saving import check_not_linked
from ..train.data.captions import CAPTION_EXTENSIONS
from ..train.data.image_files import IMAGE_FILE_SUFFIXES
from .app_state import AppState
from .thumbnails import decode_upload
from .user_paths import check_user_path, create_user_folder

UPLOADS_FOLDER = "uploads"
"""Below the data folder."""
PIECE_BYTES = 4 * 2**20
"""Most bytes of a file in one request."""
MOST_FILES = 1_000
"""Files of one upload; the page sends more in several uploads."""
MOST_ZIP_FILES = 10_000
MOST_PICTURE_BYTES = 100 * 2**20
MOST_BYTES = 8 * 2**30
"""Bytes of an upload, and of what its zips unfold to."""
SPARE_BYTES = 2**30
"""Free space that an upload leaves on the disk."""
_STALE_SECONDS = 24 * 3600
_ZIP = ".zip"
_UPLOAD = re.compile(r"[0-9a-f]{32}")
_UNUSUAL = re.compile(r"[^\w .,()+@=&'-]")
_BLOCK = 2**20
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError, ValueError)

Refuse = Callable[[str, str], None]
"""Called with a file's name and the reason why it is left out."""


@dataclass(frozen=True)
class ReceivedFile:
    """A file that has come.

    Attributes:
        parts: The parts of its name, made safe.
        path: Where its bytes are.
    """

    parts: tuple[str, ...]
    path: Path

    @property
    def name(self) -> str:
        """The name with slashes."""
        return "/".join(self.parts)

    @property
    def suffix(self) -> str:
        """The ending in lower case, with its dot."""
        return Path(self.parts[-1]).suffix.lower()

    @property
    def stem(self) -> str:
        """The name without its ending: a picture and its caption have the same one."""
        return self.name.removesuffix(Path(self.parts[-1]).suffix)


def save_upload_piece(app_state: AppState, upload: str, name: str, offset: int, data: str) -> int:
    """Adds a piece to a file of an upload.

    Args:
        app_state: Has the folders.
        upload: The upload, 32 hexadecimal digits that the page chose.
        name: The file's name, with slashes where it came in a folder.
        offset: Where in the file the piece begins; what is there from it on is replaced.
        data: The piece as base64.

    Returns:
        How many bytes of the file are there.

    Raises:
        FileError: A name, size or piece that is not accepted, or a full disk.
    """
    kind = Path(_safe_parts(name)[-1]).suffix.lower()
    if kind not in (*IMAGE_FILE_SUFFIXES, *CAPTION_EXTENSIONS, _ZIP):
        raise FileError(_wrong_kind(kind))
    piece, folder = decode_upload(data), upload_folder(app_state, upload)
    size = offset + len(piece)
    most = MOST_BYTES if kind == _ZIP else MOST_PICTURE_BYTES
    if size > most:
        raise FileError(f"the file is too large; give at most {_mebibytes(most)} MiB")
    if not folder.exists():
        _remove_stale(folder.parent)
        create_user_folder(folder)
    path = folder / _stored_name(name)
    others = [other.stat().st_size for other in folder.iterdir() if other != path]
    if len(others) >= MOST_FILES or sum(others) + size > MOST_BYTES:
        raise FileError(f"an upload has at most {MOST_FILES} files and {_mebibytes(MOST_BYTES)} MiB; send it in parts")
    check_free_space(folder, len(piece))
    there = path.stat().st_size if path.exists() else 0
    if offset > there:
        raise FileError(f"a piece at {offset:,} does not follow what is there ({counted(there, 'byte')})")
    try:
        with path.open("r+b" if there else "wb") as file:
            file.truncate(offset)
            file.seek(offset)
            file.write(piece)
    except OSError as error:
        raise FileError(f"the upload cannot be saved: {error.strerror or error}") from error
    return size


def received_files(folder: Path, files: Sequence[str], refuse: Refuse) -> Iterator[ReceivedFile]:
    """The files of the upload; those in zips instead of the zips."""
    left = [MOST_BYTES]
    for name in dict.fromkeys(files):
        path = folder / _stored_name(name)
        try:
            file = ReceivedFile(_safe_parts(name), path)
            if not path.is_file():
                raise FileError("it was not sent")
        except FileError as error:
            refuse(name, str(error))
            continue
        if file.suffix == _ZIP:
            yield from _unpacked(file, refuse, left)
        else:
            yield file


def _unpacked(archive: ReceivedFile, refuse: Refuse, left: list[int]) -> Iterator[ReceivedFile]:
    """The pictures and captions in a zip, each unpacked under a number. left: bytes that may still be unpacked."""
    try:
        with zipfile.ZipFile(archive.path) as opened:
            named = (
                one for one in opened.infolist() if one.filename
            )  # zipfile looks for the last letter of the others
            members = [one for one in named if not one.is_dir() and not _is_hidden(one.filename)]
            if len(members) > MOST_ZIP_FILES:
                raise FileError(f"it has {len(members)} files; give at most {MOST_ZIP_FILES}")
            for number, member in enumerate(members):
                try:
                    parts = _safe_parts(member.filename)
                    suffix = Path(parts[-1]).suffix.lower()
                    if suffix not in (*IMAGE_FILE_SUFFIXES, *CAPTION_EXTENSIONS):
                        raise FileError(_wrong_kind(suffix))
                    path = archive.path.with_name(f"{archive.path.name}-{number}")
                    _unpack(opened, member, path, left)
                except FileError as error:
                    refuse(member.filename[:200], str(error))
                    if left[0] <= 0:
                        break
                else:
                    yield ReceivedFile(parts, path)
    except FileError as error:
        refuse(archive.name, str(error))
    except _ZIP_ERRORS:
        refuse(archive.name, "it is no zip, or a damaged one" if archive.path.stat().st_size else "it is empty")


def _is_hidden(name: str) -> bool:
    """Whether a file of a zip is one that systems add, such as `__MACOSX/._a.jpg`."""
    parts = name.replace("\\", "/").split("/")
    return "__MACOSX" in parts or (parts[-1].startswith(".") and ".." not in parts) or parts[-1] == "Thumbs.db"


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, left: list[int]) -> None:
    """Writes a member. Its size is counted while it is unpacked: what the zip says of it may be wrong."""
    if member.flag_bits & 1:
        raise FileError("it is encrypted")
    check_free_space(path.parent, min(member.file_size, MOST_PICTURE_BYTES))
    try:
        with archive.open(member) as source, path.open("wb") as target:
            _copy(source, target, left)
    except FileError:
        path.unlink(missing_ok=True)
        raise
    except _ZIP_ERRORS:
        path.unlink(missing_ok=True)
        raise FileError("it is damaged in the zip") from None


def _copy(source: IO[bytes], target: IO[bytes], left: list[int]) -> None:
    size = 0
    while block := source.read(_BLOCK):
        size += len(block)
        left[0] -= len(block)
        if left[0] <= 0:
            raise FileError(f"the zips unfold to more than {_mebibytes(MOST_BYTES)} MiB")
        if size > MOST_PICTURE_BYTES:
            raise FileError(f"the file is too large; give at most {_mebibytes(MOST_PICTURE_BYTES)} MiB")
        target.write(block)


def _safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a name from outside, unusual characters replaced. Raises FileError for a path that leads out."""
    parts = name.replace("\\", "/").split("/")
    if len(name) > 800 or any(part in ("", ".", "..") for part in parts):
        raise FileError(f"{name[:80]!a} is not a valid name: give it relative to its folder, without ..")
    safe = [_UNUSUAL.sub("_", part).strip(" .") or "_" for part in parts]
    return check_user_path("/".join(safe)).parts


def _stored_name(name: str) -> str:
    """The name under which the bytes wait: nothing of a name from outside is part of a path."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _wrong_kind(suffix: str) -> str:
    return f"a file that ends in {suffix[:20]!r} is no picture, caption (.txt) or zip"


def _mebibytes(count: int) -> int:
    return count // 2**20


def upload_folder(app_state: AppState, upload: str) -> Path:
    """The folder in which the files of an upload wait. Raises FileError."""
    if not _UPLOAD.fullmatch(upload):
        raise FileError(f"{upload[:40]!a} is no upload; give 32 hexadecimal digits")
    folder = app_state.folders.data / UPLOADS_FOLDER / upload
    check_not_linked(folder, app_state.folders.data)
    return folder


def _remove_stale(folder: Path) -> None:
    """Uploads that were not finished for a day, such as of a page that was closed."""
    for old in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            if old.stat().st_mtime < time.time() - _STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)


def check_free_space(folder: Path, wanted: int) -> None:
    """Raises FileError where the disk of a folder would be nearly full with this many bytes more."""
    if shutil.disk_usage(folder).free < wanted + SPARE_BYTES:
        raise FileError(f"the disk of {folder.parent.name} is nearly full; free some space first")
