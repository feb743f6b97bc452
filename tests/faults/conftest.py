"""What happens when the machine, the disk or another program interferes: `pytest -m faults tests/faults`.

Not part of the ordinary tests: the work of ten minutes. It needs `os.fork`.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
torch.set_num_threads(1)  # a forked process has none of its parent's threads, and would wait for them for ever


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)
            if not hasattr(os, "fork"):
                item.add_marker(pytest.mark.skip(reason="this system has no os.fork"))


@pytest.fixture
def moments() -> random.Random:
    """The same random numbers in each run."""
    return random.Random(19)
