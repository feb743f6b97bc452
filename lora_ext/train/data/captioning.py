"""Writes captions beside images with any captioner; an existing caption is only replaced on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ...counted_words import counted
from ...errors import FileError, LoraError, TrainError
from ...file.saving import check_not_linked, replacing_file
from ...progress import Track, no_progress
from .captions import checked_caption_suffix, load_caption
from .image_files import UnreadableImage, find_images, is_image_file, rejecting_truncated_images
from .picture_edit import load_cropped_image
from .subset import check_folder

ImageCaptioner = Callable[[Sequence[Image.Image]], Sequence[str]]
"""RGB images → one caption for each."""


@dataclass
class CaptioningReport:
    """What `caption_folder` did.

    Attributes:
        written: (image, caption) for each caption that was written.
        had: Images that had a caption.
        skipped: A sentence for each image that was left out.
    """

    written: list[tuple[str, str]] = field(default_factory=list)
    had: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def text(self) -> str:
        """One line for each caption, and one with the totals."""
        lines = [f"{Path(path).name}: {caption}" for path, caption in self.written]
        sums = f"{counted(len(self.written), 'caption')} written"
        if self.had:
            sums += f"; {counted(len(self.had), 'picture has', 'pictures have')} one (--overwrite replaces them)"
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
    """Captions every image of a folder that has no caption, and writes the captions beside the images.

    An image has a caption when any file that training would read exists, even an empty one.

    Args:
        folder: The folder of images.
        describe: The captioner.
        extension: Suffix of the caption files.
        prefix: Text before every caption.
        suffix: Text after every caption.
        overwrite: Whether existing captions are replaced.
        recursive: Whether folders inside are captioned too.
        batch_size: Images captioned together.
        track: Shows the progress.
        cancelled: Asked between batches; what is written stays.

    Returns:
        The report.

    Raises:
        TrainError: The folder is missing or has no images, the extension is an image's, or the captioner fails; its
            error is then the cause.
    """
    check_folder(folder, "the folder of pictures")
    extension = checked_caption_suffix(extension)
    if is_image_file(Path(f"x{extension}")):
        raise TrainError(f"captions cannot end in {extension!r}, which is a picture's suffix; give .txt")
    found, skipped = find_images(folder, recursive)
    done = CaptioningReport(skipped=skipped)
    wanted = []
    for path in found:
        try:
            if not overwrite and load_caption(path, extension) is not None:
                done.had.append(str(path))
                continue
            check_not_linked(path.parent, folder)
            wanted.append(path)
        except (FileError, TrainError) as error:  # a caption that is not UTF-8 exists all the same
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
    """Captions one batch of images and writes the captions."""
    opened = []
    for path in part:
        try:
            opened.append((path, load_cropped_image(path).rgb))
        except UnreadableImage as error:
            done.skipped.append(str(error))
    if not opened:
        return
    try:
        captions = describe([image for _, image in opened])
    except Exception as error:  # of whatever model: what was written before is worth a word
        reason = str(error) if isinstance(error, LoraError) else f"{type(error).__name__}: {error}"
        kept = (
            f"; the {counted(len(done.written), 'caption written before stays', 'captions written before stay')}"
            if done.written
            else ""
        )
        raise TrainError(f"{opened[0][0].name} could not be described: {reason}{kept}") from error
    for (path, _), text in zip(opened, captions, strict=True):
        caption = " ".join(word for word in (around[0], " ".join(text.split()), around[1]) if word)
        try:
            with replacing_file(path.with_suffix(extension), overwrite=True) as written:
                written.write_text(caption + "\n", encoding="utf-8")
        except FileError as error:  # a link, or a file that another program holds open
            done.skipped.append(str(error))
            continue
        done.written.append((str(path), caption))
