"""One target under Atheris: libFuzzer chooses inputs by the branches of our byte code that each of them reaches.

`python -m fuzz --engine atheris` starts a process of this module for each target (`pip install atheris`; Linux and
macOS). Errors, time and memory are judged as by the project's own engine.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lora_ext"]):
    from . import file_targets, folder_targets, text_targets  # noqa: F401  they import the readers
    from .__main__ import all_targets

from .engine import Fuzzer
from .mutations import LONGEST, mutate


def main(name: str, inputs: int, seconds: float, seed: int, report: Path) -> None:
    """Tries a target and ends the process, since libFuzzer does not return.

    Args:
        name: The target's whole name.
        inputs: How many are tried at most.
        seconds: Processor time for them; 0 for no limit.
        seed: Of the inputs.
        report: The file that gets the report, as JSON.
    """
    with tempfile.TemporaryDirectory() as folder:
        (target,) = (target for target in all_targets(Path(folder)) if target.name == name)
        fuzzer, corpus, begun = Fuzzer(target, seed), Path(folder, "corpus"), time.process_time()
        corpus.mkdir()
        for number, data in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(data)

        def try_input(data: bytes) -> None:
            fuzzer.try_input(data)
            spent = time.process_time() - begun
            if fuzzer.report.inputs >= inputs or (seconds and spent > seconds):
                fuzzer.report.seconds, fuzzer.report.places = spent, fuzzer.places
                report.write_text(json.dumps(asdict(fuzzer.report), default=bytes.hex), encoding="utf-8")
                os._exit(0)

        def change(data: bytes, most: int, number: int) -> bytes:
            """Half of the changes know the target's words and JSON, the others are libFuzzer's own."""
            rng = random.Random(number)
            if rng.random() < 0.5:
                return atheris.Mutate(data, most)
            return mutate(data, target.seeds, target.words, rng)[:most]

        options = [
            f"-seed={seed % 2**31 or 1}",
            f"-max_len={LONGEST}",
            "-timeout=100",
            "-rss_limit_mb=0",
            "-verbosity=0",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], try_input, custom_mutator=change)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
