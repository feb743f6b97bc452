"""A short run of the fuzzer in every test run (a minute of processor time in CI), and what it found before.

Other inputs are tried after each commit. Errors that are not the project's own fail it. Time and memory do not, since a
busy machine decides no test; `python -m fuzz` tells those.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from fuzz.__main__ import all_targets, run  # noqa: E402
from fuzz.engine import TOO_LONG, TOO_MUCH, Target  # noqa: E402
from fuzz.folder_targets import CURVE, ONETRAINER, RUN, SHEET  # noqa: E402
from lora_ext.embedded import LORA_DIR  # noqa: E402
from lora_ext.errors import LoraError  # noqa: E402

SECONDS, INPUTS = float(os.environ.get("LORA_EXT_FUZZ_SECONDS") or 5), 1_000_000
HUGE = b"1" + b"0" * 400
"""An integer that JSON allows and no float can be."""
EMBEDDED = LORA_DIR / "framed.safetensors"


def _kept_summary(metadata: object) -> bytes:
    """The library's cache with a row of an embedded file, which is read while the stamp is the file's."""
    status = EMBEDDED.stat()
    row = [status.st_mtime_ns, status.st_size, metadata, None, None]
    return json.dumps({"version": 2, "files": {str(EMBEDDED): row}}).encode()


def _zip_of_no_name() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"")
    return out.getvalue()


FINDS = [
    ("kept outputs/train/run/run.json", RUN.replace(b"1.5", b"[1.5]")),
    ("kept outputs/train/run/run.json", RUN.replace(b"1.5", HUGE)),
    ("kept outputs/train/run/run.csv", CURVE + b"3,\xff\n"),
    ("kept outputs/train/run/run.csv", CURVE + b'"' + b"x" * 200_000),
    ("a run's settings again", b'{"name": "again"}'),
    ("a run's settings again", b"1"),
    ("kept log of a run", CURVE + "²,\n".encode()),
    ("kept log of a run", CURVE + b"3,\xff\n"),
    ("kept outputs/compare/one/sheet.json", SHEET.replace(b'"p.png"', b"1.5")),
    ("kept outputs/compare/one/sheet.json", SHEET.replace(b'"seed": 1', b'"seed": NaN')),
    ("kept sketch of a file", b'["a", ' + HUGE + b', 16, 1.5, "AAAAAAAA"]'),
    ("card, the web UI's", b'{"preferred weight": ' + HUGE + b"}"),
    ("kept summary of the library", _kept_summary({"ss_output_name": 1.5})),
    ("other programs' settings", json.dumps({**ONETRAINER, "max_noising_strength": 1e308}).encode()),
    ("zip of pictures", _zip_of_no_name()),
    ("control file of a run", b'{"lr_factor": ' + HUGE + b"}"),
    ("settings of training", b'{"network_args": "\'open"}'),
]
"""A target's name, and an input that once ended in an error that is not the project's own."""


def commit_count() -> int:
    """How many commits there are; 0 where the sources are no clone."""
    command = ["git", "-C", str(ROOT), "rev-list", "--count", "HEAD"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return {target.name: target for target in all_targets(tmp_path_factory.mktemp("finds"))}


@pytest.mark.parametrize(("name", "data"), FINDS, ids=range(len(FINDS)))
def test_what_was_found_is_taken_as_it_should(name: str, data: bytes, targets: dict[str, Target]) -> None:
    with contextlib.suppress(LoraError):
        targets[name].run(data)


def test_no_reader_is_brought_down(tmp_path: Path) -> None:
    seed = 20261129 + commit_count()
    found = (find for report in run(all_targets(tmp_path), INPUTS, SECONDS, seed) for find in report.finds)
    finds = [find for find in found if find.what not in (TOO_LONG, TOO_MUCH)]
    assert not finds, f"seed {seed}: " + "; ".join(f"{f.target}: {f.what}: {f.data[:200]!r}" for f in finds)
