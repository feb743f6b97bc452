"""The stand-in of the web UI does what the real one was recorded to do: signatures, types, and the order of calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from stand_in_webui import RECORDER, Driver, started
from webui_contract import OBJECTS, record, recording, used_names

REAL = recording()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The same recording, of the stand-in."""
    with started(tmp_path_factory.mktemp("webui"), RECORDER) as webui:
        yield record(Driver(webui))


def test_all_that_the_code_names_is_recorded() -> None:
    assert set(used_names()) == set(REAL["names"]), "run tests/webui/record_contract.py"
    assert {name: attributes.split() for name, attributes in OBJECTS.items()} == {
        name: list(attributes) for name, attributes in REAL["objects"].items()
    }


@pytest.mark.long
@pytest.mark.parametrize("name", REAL["orders"])
def test_order_of_calls(ours: dict[str, Any], name: str) -> None:
    assert ours["orders"][name] == REAL["orders"][name]


def test_no_other_scenario(ours: dict[str, Any]) -> None:
    assert list(ours["orders"]) == list(REAL["orders"])


@pytest.mark.parametrize("name", REAL["names"])
def test_signatures(ours: dict[str, Any], name: str) -> None:
    assert ours["names"][name] == REAL["names"][name]


@pytest.mark.parametrize("name", REAL["objects"])
def test_attributes(ours: dict[str, Any], name: str) -> None:
    assert ours["objects"][name] == REAL["objects"][name]


@pytest.mark.parametrize("name", REAL["facts"])
def test_results_of_calls(ours: dict[str, Any], name: str) -> None:
    assert ours["facts"][name] == REAL["facts"][name]
