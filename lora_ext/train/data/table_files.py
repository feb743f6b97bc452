"""Pictures and captions in parquet and arrow files of the `datasets` library, unpacked into a folder once."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ...errors import TrainError, did_you_mean
from ..config.recipe import Recipe
from .content_cache import content_key
from .image_files import is_image_file

_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}
_TABLES = (".parquet", ".arrow")


def unpack_tables(source: Path, recipe: Recipe, notify: Callable[[str], None] = lambda text: None) -> Path | None:
    """Unpacks the tables of a dataset into a folder of pictures with a list of captions.

    Args:
        source: A parquet or arrow file, or a folder that has such files (also below it) and no pictures of its own.
        recipe: Its `image_column` and `caption_column` name the columns; the new folder is in its `output_dir`.
        notify: Called with a sentence that tells the folder.

    Returns:
        The folder, which a later run uses again; None where there is no table.

    Raises:
        TrainError: pyarrow is not installed, a column is missing, or a picture cannot be read.
    """
    tables = _tables_of(source)
    if not tables:
        return None
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in tables]
    key = content_key(stamps, recipe.image_column, recipe.caption_column)[:8]
    folder = Path(recipe.output_dir or source.parent) / f"pictures-{source.stem}-{key}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", suffix=".part", dir=folder.parent))
        try:
            _write_pictures(tables, part, recipe, source if source.is_dir() else source.parent)
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    notify(f"pictures and captions of {source.name} are in {folder}")
    return folder


def _tables_of(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.suffix.lower() in _TABLES else []
    if not source.is_dir() or any(
        is_image_file(path) or path.name.startswith("metadata.") for path in source.iterdir()
    ):
        return []
    return sorted(path for path in source.rglob("*") if path.suffix.lower() in _TABLES and path.is_file())


def _write_pictures(tables: list[Path], folder: Path, recipe: Recipe, root: Path) -> None:
    number = 0
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as captions:
        for table in tables:
            for picture, caption in _rows(table, recipe):
                number += 1
                where = f"{table}, row {number}"
                data = _picture_bytes(picture, where, root)
                try:
                    with Image.open(BytesIO(data)) as image:
                        name = f"{number:06}{_SUFFIXES[image.format or '']}"
                except (OSError, KeyError, ValueError, Image.DecompressionBombError):
                    raise TrainError(f"{where}: {recipe.image_column!r} is not a picture that can be read") from None
                (folder / name).write_bytes(data)
                text = caption[0] if isinstance(caption, list) and caption else caption
                row = {"file_name": name, recipe.caption_column: str(text or "")}
                captions.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rows(table: Path, recipe: Recipe) -> Iterator[tuple[Any, Any]]:
    """(picture, caption) of each row; a table without the usual caption column has no captions."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError:
        raise TrainError(f"{table} needs the package pyarrow: pip install pyarrow") from None
    if not table.stat().st_size:
        raise TrainError(f"{table} is empty")
    try:
        if table.suffix.lower() == ".parquet":
            file = parquet.ParquetFile(table)
            names, batches = file.schema_arrow.names, file.iter_batches(batch_size=16)
        else:
            stream = ipc.open_stream(pyarrow.memory_map(str(table)))
            names, batches = stream.schema.names, stream
        for column, usual in ((recipe.image_column, ""), (recipe.caption_column, "text")):
            if column not in names and column != usual:
                have = ", ".join(names[:20])
                raise TrainError(f"{table} has no column {column!r}, but {have}{did_you_mean(column, names)}")
        for batch in batches:
            pictures = batch.column(recipe.image_column).to_pylist()
            texts = batch.column(recipe.caption_column).to_pylist() if recipe.caption_column in names else None
            yield from zip(pictures, texts or [""] * len(pictures), strict=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise TrainError(f"{table} cannot be read: {error}") from None


def _picture_bytes(value: Any, where: str, root: Path) -> bytes:
    """A picture's file: its bytes, or a file inside the dataset's folder."""
    name = value
    if isinstance(value, dict):
        name, value = value.get("path"), value.get("bytes")
    if isinstance(value, bytes):
        return value
    path = (root / str(name)).resolve()
    if not name or root.resolve() not in path.parents or not path.is_file():
        raise TrainError(f"{where} has no picture, and no file in {root} is named {str(name)[:80]!r}")
    return path.read_bytes()
