"""Settings of all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from old_companions import skip_what_is_too_old

HERE = Path(__file__).parent
ASKED_FOR = ("faults", "soak")
"""Folders of tests that run only with `-m faults` and `-m soak`."""

settings.register_profile("any speed", deadline=None)  # a busy machine is no failure
settings.load_profile("any speed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes more than about a second; CI runs every sixth one, in turn")
    config.addinivalue_line("markers", "faults: kills, full disks and the like; only with -m faults")
    config.addinivalue_line("markers", "soak: thousands of repetitions; only with -m soak")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Passes over tests/faults and tests/soak, unless they are asked for by their marker."""
    name = collection_path.name
    passed_over = collection_path.parent == HERE and name in ASKED_FOR and name not in config.getoption("markexpr")
    return True if passed_over else None  # None: as pytest itself decides


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what an installed package is too old for.

    With LORA_EXT_LONG_TESTS=0 to 5, runs every sixth of the tests that are marked `long`, from that one on.
    """
    skip_what_is_too_old(items)
    if part := os.environ.get("LORA_EXT_LONG_TESTS"):
        marked = [item for item in items if item.get_closest_marker("long")]
        others = [item for number, item in enumerate(marked) if number % 6 != int(part) % 6]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]
