"""Sentences that count read right for one thing: "1 byte", "1 of 2 layers is", never "1 bytes" or "all 1 layers"."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from makers import make
from test_tools_laws import LAYERS, layer_id

from lora_ext.adapters import adapter_from_tensors
from lora_ext.errors import FileError
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.safetensors_file import load_safetensors
from lora_ext.fit_report import FitReport
from lora_ext.tools.conflicts import measure_conflicts
from lora_ext.tools.report import ToolReport
from lora_ext.weight_trace import WeightTrace

ROOT = Path(__file__).parent.parent / "lora_ext"
A_COUNT = re.compile(r"\b(?:len|sum)\(|\b(?:batch|count|done|layers|missed|missing|repeats|size|there|tokens|total)$")
"""An expression in a text that is the number of something."""
MANY = re.compile(r" (?:[a-z]+ ){0,3}?(?:[a-z]+s|are|have|were)\b")
ONE = re.compile(r" (?:[a-z]+ ){0,3}?(?:is|has|was|does|as|this|its|across|takes|gives|says|belongs|lies)\b")
NEVER_ONE = {  # in these places stands 0 or 2 and more: 1 has a sentence of its own, or cannot be
    "block_weights.py: len(values) block weights",
    "compare/axis_values.py: count values",
    "compare/identical_cells.py: len(plan.cells) cells",
    "compare/sheet_plan.py: count cells",
    "compare/training_run_files.py: len(known) or 'no' training runs",
    "demo.py: len(DEMO_SCENES) images",
    "demo.py: len(prompts) captions",
    "embedded/train_unet.py: len(prompts) prompts",
    "file/broken_links.py: len(links) links",
    "file/lora_library.py: len(others) + 1 files",
    "file/lora_library.py: len(shared) files",
    "file/torch_file.py: size bytes",
    "file/torch_file.py: total bytes",
    "fit_report.py: total layers",
    "host/standalone/block_swap.py: len(blocks) blocks",
    "host/standalone/folder_of_checkpoint.py: count tensors",
    "host/standalone/folder_of_checkpoint.py: len(network.rows) tensors",
    "host/standalone/folder_of_checkpoint.py: words.size tokens",
    "host/standalone/ldm_checkpoint.py: len(wanted) tensors",
    "inject/batch_rows.py: count sets",
    "lora_tags.py: len(positional) numbers",
    "regions/prompt_words.py: sum(map(len, cells)) regions",
    "tools/distinct_names.py: len(rows) files",
    "tools/merge_folder_into_file.py: len(rows) tensors",
    "train/config/block_settings.py: count numbers",
    "train/config/block_settings.py: len(blocks) blocks",
    "train/config/layer_choice.py: len(pairs) pairs",
    "train/config/optimizers.py: len(text) characters",
    "train/data/dataset_scan.py: len(jobs) pictures",
    "train/run/preflight.py: tokens tokens",
    "web/dataset_browser.py: len(caption) characters",
    "web/upload_files.py: len(members) files",
}


def counts() -> Iterator[str]:
    """Every number with the plural behind it in the program's texts, but for those that `counted` fills in."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for place, text in itertools.pairwise(node.values) if isinstance(node, ast.JoinedStr) else ():
                if not isinstance(place, ast.FormattedValue) or not isinstance(text, ast.Constant):
                    continue
                number = ast.unparse(place.value)
                if number.startswith("counted(") or not A_COUNT.search(number):
                    continue
                found = MANY.match(str(text.value))
                if found and not ONE.match(found[0]):
                    yield f"{path.relative_to(ROOT).as_posix()}: {number}{found[0]}"


def test_no_text_says_one_things() -> None:
    assert set(counts()) == NEVER_ONE, "fill it in with counted(), which says 1 thing"


def test_the_only_u_net_call() -> None:
    trace = WeightTrace()
    trace.record(0, [("cat", 0.5)])
    assert trace.lines()[0].startswith("cat: weight at the only U-Net call ")


def test_one_block_without_weight() -> None:
    one, two = (FitReport("cat", matched=2, blocks_without_weight=blocks) for blocks in (("IN04",), ("IN04", "IN05")))
    assert "block IN04 not in" in str(one) and "blocks IN04, IN05 not in" in str(two)
    assert "1 of another size: " in str(FitReport("cat", matched=2, wrong_shape=(layer_id(next(iter(LAYERS))),)))


def test_one_layer_of_a_tool() -> None:
    report = ToolReport("merge")
    report.left_out = {"cat": ["a"], "dog": ["a", "b"]}
    assert "1 layer of cat left out: a\n" in report.text() and "2 layers of dog left out, such as a\n" in report.text()


def test_one_layer_that_is_not_measured() -> None:
    def file(*kinds: str) -> LoraFile:
        made = {}
        for name, kind in zip(LAYERS, kinds, strict=False):
            adapter = adapter_from_tensors(make(kind, LAYERS[name], 2, rng=np.random.default_rng(3)))
            assert adapter is not None
            made[layer_id(name)] = adapter
        return LoraFile(made)

    notes = [
        measure_conflicts([file("lora", *more), file("lora")], names=["a", "b"]).warnings for more in (["ia3-out"], [])
    ]
    assert notes[0][0].startswith("a: 1 of 2 layers is not measured, since its change") and not notes[1]
    assert (
        measure_conflicts([file("ia3-out"), file("lora")], names=["a", "b"])
        .warnings[0]
        .startswith("a: 1 of 1 layer is ")
    )


@pytest.mark.parametrize("shape, offsets, what", [([1], [0, 2], "takes 1 byte, its"), ([2], [0, 2], "2 of 1 byte of")])
def test_one_byte(tmp_path: Path, shape: list[int], offsets: list[int], what: str) -> None:
    header = f'{{"a":{{"dtype":"U8","shape":{shape},"data_offsets":{offsets}}}}}'.encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    with pytest.raises(FileError, match=what):
        load_safetensors(tmp_path / "a.safetensors")
