"""A web UI that is given by its URL: its files are afterwards as they were, so that the tests can run again."""

from __future__ import annotations

from pathlib import Path

from server import dataset, files_as_before


def test_what_tests_add_is_removed(tmp_path: Path) -> None:
    own = tmp_path / "models" / "Lora" / "own.safetensors"
    own.parent.mkdir(parents=True)
    own.write_text("own")
    for _ in range(2):
        with files_as_before(tmp_path):
            dataset(tmp_path)
            (own.parent / "sub").mkdir()
            (own.parent / "sub" / "trained.safetensors").write_text("made")
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [own]
        assert not (own.parent / "sub").exists()
