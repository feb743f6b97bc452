"""`images`: reduces images for training to one or several sizes; options are named as in kohya's script."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ...command_line import CommandParser
from ...console import print_text
from ...counted_words import counted
from ...errors import FileError, TrainError
from ...file.saving import check_not_linked, replacing_file
from ...progress import Track, no_progress, progress_bar
from .buckets import PixelSize
from .captions import CAPTION_EXTENSIONS, caption_files
from .image_files import UnreadableImage, find_images, is_image_file, rejecting_truncated_images, resize_image
from .picture_edit import load_cropped_image, load_picture_edit
from .subset import check_folder

OPENCV_INTERPOLATIONS = ("area", "cubic", "lanczos4")
DEFAULT_MAX_RESOLUTION = "512x512,384x384,256x256,128x128"
_SIZE = re.compile(r"\s*(\d+)\s*x\s*(\d+)\s*")


@dataclass
class ResizeReport:
    """What `resize_folder` did.

    Attributes:
        images_read: How many images were read.
        written: Image files that were written.
        copied: Other files that were copied.
        already_there: Files that existed and were left alone.
        skipped: A sentence for each image, or mask of one, that was left out.
        captions_left: How many images have a caption that was not copied.
    """

    images_read: int = 0
    written: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    already_there: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    captions_left: int = 0

    def text(self) -> str:
        """One line with the totals, and one for each image that was left out."""
        line = f"{counted(self.images_read, 'picture')} read, {len(self.written)} written"
        if self.copied:
            line += f", {counted(len(self.copied), 'other file')} copied"
        if self.already_there:
            line += f", {len(self.already_there)} existed already (--overwrite replaces them)"
        if self.captions_left:
            those = counted(self.captions_left, "of the pictures has a caption", "of the pictures have captions")
            line += f"\n{those}; --copy_associated_files copies them too"
        return "\n".join([line, *(f"skipped: {sentence}" for sentence in self.skipped)])


def parse_max_resolution(text: str) -> list[PixelSize]:
    """Parses sizes. Raises TrainError.

    Example:
        >>> parse_max_resolution("512x512,384x384")
        [(512, 512), (384, 384)]
    """
    sizes = []
    for part in text.split(","):
        match = _SIZE.fullmatch(part)
        if not match or not int(match[1]) or not int(match[2]):
            raise TrainError(
                f"max_resolution {part.strip()!r} is not a size such as 512x512; several: {DEFAULT_MAX_RESOLUTION}"
            )
        sizes.append((int(match[1]), int(match[2])))
    return list(dict.fromkeys(sizes))


def reduced_sizes(size: PixelSize, max_size: PixelSize, divisible_by: int = 1) -> tuple[PixelSize, PixelSize]:
    """Computes the sizes of a reduced image.

    Args:
        size: (width, height) of the image.
        max_size: The (width, height) whose area the image is scaled to if it is larger.
        divisible_by: The sides are cropped to multiples of it.

    Returns:
        (scaled size, cropped size).

    Raises:
        TrainError: A side would be 0.
    """
    scale = math.sqrt(min(1.0, max_size[0] * max_size[1] / (size[0] * size[1])))
    scaled = size if scale == 1 else (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))
    cut = scaled[0] - scaled[0] % divisible_by, scaled[1] - scaled[1] % divisible_by
    if not min(cut):
        raise TrainError(
            f"{size[0]}x{size[1]} at {max_size[0]}x{max_size[1]} has no side that divides by {divisible_by}"
        )
    return scaled, cut


def resize_folder(
    source: Path,
    target: Path,
    *,
    max_resolution: str = DEFAULT_MAX_RESOLUTION,
    divisible_by: int = 1,
    interpolation: str = "area",
    save_as_png: bool = False,
    copy_associated_files: bool = False,
    recursive: bool = False,
    overwrite: bool = False,
    track: Track = no_progress,
) -> ResizeReport:
    """Writes every image of a folder at each size, as NAME+512x512.jpg.

    Args:
        source: The folder of images.
        target: The folder for the results; it is created.
        max_resolution: The largest areas, as `parse_max_resolution` reads them.
        divisible_by: Sides are cropped to multiples of it.
        interpolation: A name of `OPENCV_INTERPOLATIONS`.
        save_as_png: Whether to write PNG, which keeps transparency.
        copy_associated_files: Whether captions and other files of the same name are copied, as NAME+512x512.txt.
        recursive: Whether folders inside are included.
        overwrite: Whether existing files are replaced.
        track: Shows the progress.

    Returns:
        The report.

    Raises:
        TrainError: A folder is missing, both are the same, or a size does not parse.
        FileError: The disk is full.
    """
    check_folder(source, "the folder of pictures")
    if divisible_by < 1:
        raise TrainError(f"divisible_by {divisible_by} is not 1 or more")
    sizes, done = parse_max_resolution(max_resolution), ResizeReport()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"{target} cannot be created: {error.strerror or error}") from None
    if target.samefile(source):
        raise TrainError(f"the results would be written among the originals; give another folder than {target}")
    found, done.skipped = find_images(source, recursive)
    names = _Names(source, target, ".png" if save_as_png else ".jpg")
    with rejecting_truncated_images():
        for path in track(found, "images"):
            try:
                names.check(path)
                opened = load_cropped_image(path)
                done.images_read += 1
                done.captions_left += not copy_associated_files and any(caption_files(path))
                if load_picture_edit(path)[0].mask is not None:
                    done.skipped.append(f"{path}: its painted mask is left out; its crop is applied")
                for size in sizes:
                    check_not_linked(names.of(path, size).parent, target)
                    image = _resized_image(
                        opened.rgb, opened.alpha if save_as_png else None, size, divisible_by, interpolation
                    )
                    _save(image, names.of(path, size), overwrite, done)
                    if copy_associated_files:
                        _copy(path, names.of(path, size), overwrite, done)
            except UnreadableImage as error:
                done.skipped.append(str(error))
            except TrainError as error:
                done.skipped.append(f"{path}: {error}")
    return done


class _Names:
    """The result files; two sources that would give the same file are an error."""

    def __init__(self, source: Path, target: Path, suffix: str) -> None:
        self.source, self.target, self.suffix = source, target, suffix
        self.taken: dict[Path, Path] = {}

    def of(self, path: Path, size: PixelSize) -> Path:
        """An image's result file at a size."""
        folder = self.target / path.parent.relative_to(self.source)
        return folder / f"{path.stem}+{size[0]}x{size[1]}{self.suffix}"

    def check(self, path: Path) -> None:
        """Raises TrainError for another image of the same name."""
        other = self.taken.setdefault(path.with_suffix(""), path)
        if other != path:
            raise TrainError(f"{other.name} has the same name; rename one of them")


def _resized_image(image: Image.Image, alpha: Image.Image | None, most: PixelSize, step: int, how: str) -> Image.Image:
    """An image at one size, cropped at the centre."""
    scaled, cut = reduced_sizes(image.size, most, step)
    left, top = (scaled[0] - cut[0]) // 2, (scaled[1] - cut[1]) // 2
    box = left, top, left + cut[0], top + cut[1]
    small = resize_image(image, scaled, how).crop(box)
    if alpha is not None:
        small.putalpha(resize_image(alpha, scaled, how).crop(box))
    return small


def _save(image: Image.Image, path: Path, overwrite: bool, done: ResizeReport) -> None:
    if path.exists() and not overwrite:
        done.already_there.append(str(path))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing_file(path, overwrite=True) as part, part.open("wb") as out:
            if path.suffix == ".png":
                image.save(out, "PNG", optimize=True)
            else:
                image.save(out, "JPEG", quality=100, subsampling=0)
    except FileError as error:
        raise FileError(f"{error}; what was written before is complete") from None
    done.written.append(str(path))


def _copy(path: Path, made: Path, overwrite: bool, done: ResizeReport) -> None:
    """Copies the files beside an image that share its name, with the size added to theirs."""
    for other in _associated(path):
        kept = path.name if other.name.startswith(f"{path.name}.") else path.stem  # a.png.txt or a.txt
        target = made.with_name((made.name if kept == path.name else made.stem) + other.name[len(kept) :])
        if target.exists() and not overwrite:
            done.already_there.append(str(target))
            continue
        with replacing_file(target, overwrite=True) as part:
            shutil.copyfile(other, part)
        done.copied.append(str(target))


def _associated(path: Path) -> Iterator[Path]:
    for other in sorted(path.parent.iterdir()):
        same = other.name.startswith(f"{path.stem}.") and "." not in other.name[len(path.stem) + 1 :]
        same = same or any(other.name == path.name + suffix for suffix in CAPTION_EXTENSIONS)
        if same and other.is_file() and not is_image_file(other):
            yield other


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `images`; returns 0 also if single images were skipped, which the report names."""
    parser = CommandParser("images", "Reduce pictures for training to one or several sizes.")
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of pictures")
    parser.add_argument("target", type=Path, metavar="DST", help="folder for the results; it is created")
    text = "largest areas, WIDTHxHEIGHT separated by commas; smaller pictures keep their size"
    parser.add_argument("--max_resolution", default=DEFAULT_MAX_RESOLUTION, help=text)
    parser.add_argument("--divisible_by", type=int, default=1, help="crop sides to multiples of this")
    parser.add_argument("--interpolation", choices=OPENCV_INTERPOLATIONS, default="area", help="how to scale")
    parser.add_argument("--save_as_png", action="store_true", help="PNG (keeps transparency) instead of JPEG")
    text = "copy captions and other files of the same name"
    parser.add_argument("--copy_associated_files", action="store_true", help=text)
    parser.add_argument("--recursive", action="store_true", help="include folders inside")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    options = vars(parser.parse_args(argv))
    done = resize_folder(options.pop("source"), options.pop("target"), track=progress_bar, **options)
    print_text(done.text())
    return 0
