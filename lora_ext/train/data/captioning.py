"""Writes captions beside pictures, by whatever describes them; a caption that is there is never replaced unasked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ...errors import FileError, TrainError
from ...file.saving import check_not_linked, replacing_file
from ...progress import Track, no_progress
from .captions import checked_caption_suffix, load_caption
from .image_files import UnreadableImage, is_image_file, load_training_image, rejecting_truncated_images
from .subset import check_folder

ImageCaptioner = Callable[[Sequence[Image.Image]], Sequence[str]]
"""RGB pictures → a caption each."""


@dataclass
class CaptioningReport:
    """What came of it: (picture, caption) written; pictures that had one; sentences about those left out."""

    written: list[tuple[str, str]] = field(default_factory=list)
    had: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def text(self) -> str:
        """A line for each caption, and one of sums."""
        lines = [f"{Path(path).name}: {caption}" for path, caption in self.written]
        sums = f"{len(self.written)} captions written"
        if self.had:
            sums += f"; {len(self.had)} pictures have one (--overwrite writes them anew)"
        return "\n".join([*lines, *(f"skipped: {sentence}" for sentence in self.skipped), sums])


def caption_folder(
    folder: Path,
    describe: ImageCaptioner,
    *,
    extension: str = ".txt",
    prefix: str = "",
    suffix: str = "",
    overwrite: bool = False,
    recursive: bool = False,
    batch_size: int = 1,
    track: Track = no_progress,
    cancelled: Callable[[], bool] = lambda: False,
) -> CaptioningReport:
    """Describe every picture of a folder that has no caption, and write what comes out beside it.

    A picture has a caption when any file that training would read is there, empty or not. prefix, suffix: put around
    what was described. together: pictures described at once. cancelled: asked between them; what is written stays.
    Raises TrainError: no folder, no pictures, an extension that is a picture's.
    """
    check_folder(folder, "the folder of pictures")
    extension = checked_caption_suffix(extension)
    if is_image_file(Path(f"x{extension}")):
        raise TrainError(f"captions cannot end in {extension!r}; .txt is usual")
    found = sorted(path for path in folder.glob("**/*" if recursive else "*") if is_image_file(path) and path.is_file())
    if not found:
        raise TrainError(
            f"{folder} has no pictures{'' if recursive else '; --recursive looks into the folders inside'}"
        )
    done = CaptioningReport()
    wanted = []
    for path in found:
        try:
            if not overwrite and load_caption(path, extension) is not None:
                done.had.append(str(path))
                continue
            check_not_linked(path.parent, folder)
            wanted.append(path)
        except (FileError, TrainError) as error:  # a caption that is no text is there all the same
            done.skipped.append(str(error))
    parts = [wanted[at : at + batch_size] for at in range(0, len(wanted), batch_size)]
    with rejecting_truncated_images():
        for part in track(parts, "captions"):
            if cancelled():
                break
            _describe(part, describe, (prefix, suffix), extension, done)
    return done


def _describe(
    part: Sequence[Path], describe: ImageCaptioner, around: tuple[str, str], extension: str, done: CaptioningReport
) -> None:
    """The captions of a few pictures."""
    opened = []
    for path in part:
        try:
            opened.append((path, load_training_image(path).rgb))
        except UnreadableImage as error:
            done.skipped.append(str(error))
    if not opened:
        return
    for (path, _), text in zip(opened, describe([image for _, image in opened]), strict=True):
        caption = " ".join(word for word in (around[0], " ".join(text.split()), around[1]) if word)
        try:
            with replacing_file(path.with_suffix(extension), overwrite=True) as written:
                written.write_text(caption + "\n", encoding="utf-8")
        except FileError as error:  # a link, or a file that another program holds
            done.skipped.append(str(error))
            continue
        done.written.append((str(path), caption))
