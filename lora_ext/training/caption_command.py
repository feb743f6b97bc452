"""`caption`: captions images with a local BLIP model, or with a tagger."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ..command_line import CommandParser
from ..console import print_text
from ..host.onnx_tagger import OnnxTagger, TaggerThresholds
from ..host.standalone.blip import BlipCaptioner
from ..host.standalone.captioner_folders import is_tagger_folder
from ..progress import no_progress, progress_bar
from ..train.data.captioning import ImageCaptioner, caption_folder
from ..train.data.subset import check_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `caption`; returns the exit status."""
    parser = CommandParser("caption", "Caption pictures that have no caption yet.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of pictures")
    text = "folder of a BLIP captioning model or of a tagger in ONNX (default: a BLIP model in the hub cache)"
    parser.add_argument("--model", "--caption_weights", dest="model", type=Path, metavar="DIR", help=text)
    parser.add_argument("--caption_extension", default=".txt", help="suffix of the captions")
    parser.add_argument("--prefix", default="", help="put before every caption, such as a trigger word")
    parser.add_argument("--suffix", default="", help="put after every caption")
    parser.add_argument("--overwrite", action="store_true", help="replace existing captions")
    parser.add_argument("--recursive", action="store_true", help="include folders inside")
    parser.add_argument("--batch_size", type=int, default=1, help="pictures captioned together")
    parser.add_argument("--num_beams", type=int, default=1, help="beams of the search; more are slower and better")
    parser.add_argument("--min_length", type=int, default=5, help="shortest caption, in tokens")
    parser.add_argument("--max_length", type=int, default=75, help="longest caption, in tokens")
    usual = TaggerThresholds()
    parser.add_argument("--threshold", type=float, default=usual.general, help="a tagger's least probability of a tag")
    text = "the same for names of characters"
    parser.add_argument("--character_threshold", type=float, default=usual.character, help=text)
    parser.add_argument("--device", help="where to compute: cpu, cuda, mps")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(argv)
    check_folder(given.folder, "the folder of pictures")  # before the model is loaded, which takes seconds
    describe = _captioner(given)
    done = caption_folder(
        given.folder,
        describe,
        extension=given.caption_extension,
        prefix=given.prefix,
        suffix=given.suffix,
        overwrite=given.overwrite,
        recursive=given.recursive,
        batch_size=max(1, given.batch_size),
        track=no_progress if given.json else progress_bar,
    )
    print_text(json.dumps(vars(done), ensure_ascii=False, indent=2) if given.json else done.text())
    return 0


def _captioner(given: Namespace) -> ImageCaptioner:
    """The captioner of a command line. Raises FileError."""
    if given.model and is_tagger_folder(given.model):
        return OnnxTagger(given.model, TaggerThresholds(given.threshold, given.character_threshold), given.device)
    lengths = {"min_length": given.min_length, "max_length": given.max_length}
    return BlipCaptioner(given.model, given.device, num_beams=given.num_beams, **lengths)
