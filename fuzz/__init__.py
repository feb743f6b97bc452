"""Fuzzing of every reader of untrusted input: `python -m fuzz`.

Each target of `text_targets`, `file_targets` and `folder_targets` gives bytes to one reader. `engine` changes seeds at random and keeps
the inputs that reach new lines; `with_atheris` lets libFuzzer choose them by branches. Allowed are a result and the project's own errors, within a second and in memory that
the input's size bounds. What it finds is mended where the input is read and becomes a test.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
"""Their makers of adapters and their files of other trainers are seeds."""
sys.path.append(str(TESTS))
