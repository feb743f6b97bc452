"""Axes as text → edits of an image spec; runs of files; the web UI's plot with the same axes."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lora_ext.block_weights import parse_block_weights
from lora_ext.blocks import BLOCK_LAYOUTS
from lora_ext.compare import axes, axis_values
from lora_ext.compare.axes import AXIS_KINDS
from lora_ext.compare.axis_kinds import AxisContext
from lora_ext.compare.image_spec import ImageSpec, edit_tag, find_tag
from lora_ext.compare.sheet_plan import SheetPlan, batch_image_specs, plan_sheet, unique_image_specs
from lora_ext.compare.training_run_files import RunFile, group_by_run, parse_run_file
from lora_ext.errors import LoraError
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.lora_tags import parse_lora_tags

KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
RUN = ("run-000001", "run-000002", "run-000010", "run")


def write(path: Path, rank: int = 4, metadata: dict[str, str] | None = None) -> None:
    tensors = {f"{KEY}.lora_down.weight": torch.ones(rank, 32), f"{KEY}.lora_up.weight": torch.ones(32, rank)}
    save_file(tensors, path, metadata=metadata)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> LoraLibrary:
    folder = tmp_path_factory.mktemp("loras")
    for name in (*RUN, "style", "other"):
        write(folder / f"{name}.safetensors", metadata={"ss_output_name": name.split("-")[0]})
    write(
        folder / "dy.safetensors",
        rank=8,
        metadata={"ss_network_module": "networks.dylora", "ss_network_args": '{"unit": "2"}'},
    )
    (folder / "sub").mkdir()
    write(folder / "sub" / "run-000003.safetensors")
    return LoraLibrary([folder])


def prompts(library: LoraLibrary, prompt: str, x: str, y: str = "", lora: str = "") -> list[str]:
    return [cell.image_spec.prompt for cell in plan_sheet(ImageSpec(prompt=prompt, lora=lora), x, y, "", library).cells]


# --- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.2-1.0(+0.2)", [0.2, 0.4, 0.6, 0.8, 1.0]),
        ("0.2-1.0 (+0.2)", [0.2, 0.4, 0.6, 0.8, 1.0]),
        ("0-1 [5]", [0, 0.25, 0.5, 0.75, 1]),
        ("1-0 (-0.5)", [1, 0.5, 0]),
        ("-1-1 (0.5)", [-1, -0.5, 0, 0.5, 1]),
        ("-0.5", [-0.5]),
        ("1-3, 7", [1, 2, 3, 7]),
        (".5,1.", [0.5, 1]),
        ("0-0.95 (+0.3)", [0, 0.3, 0.6, 0.9]),
        ("2-2", [2]),
        ("3-5 [1]", [3]),
    ],
)
def test_ranges_as_the_plot_script_writes_them(text: str, expected: list[float]) -> None:
    assert axis_values.parse_number_list(text, "weight") == expected


@given(st.integers(-50, 50), st.integers(1, 40), st.integers(2, 30))
def test_ranges_meet_their_ends(first: int, step: int, count: int) -> None:
    a, s = first / 20, step / 20
    last = round(a + s * (count - 1), 8)
    found = axis_values.parse_number_list(f"{a:g}-{last:g} (+{s:g})", "weight")
    assert len(found) == count and found[0] == pytest.approx(a) and found[-1] == pytest.approx(last)
    assert found == pytest.approx(axis_values.parse_number_list(f"{a:g}-{last:g} [{count}]", "weight"))


@pytest.mark.parametrize("text", ["9" * 400, f"0-1 (+0.{'0' * 400}1)", f"0-1 [{'9' * 5000}]", f"1-{'9' * 400}"])
def test_a_number_with_hundreds_of_digits_is_refused(text: str) -> None:
    with pytest.raises(LoraError, match="is not a number"):
        axis_values.parse_number_list(text, "seed", whole=True)


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("weigth:1", "did you mean 'weight'"),
        ("lora:1", "known: block, cfg, compose,"),
        ("weight", "no values"),
        ("weight:", "no values given"),
        ("weight:1-0", "never gets from 1 to 0"),
        ("weight:0-1 (0)", "never gets"),
        ("weight:0-1 (+0.00001)", "at most 1000"),
        ("weight:high", "'high' is neither a number nor a range"),
        ("seed:1.5", "whole numbers"),
        ("preset:OUTAL", "did you mean 'OUTALL'"),
        ("block OUT77:1", "unknown block 'OUT77'"),
        ("block:OUT05", "BLOCK=WEIGHT"),
        ("file:stile", "did you mean 'style'"),
        ("epoch style:all", "does not belong to a training run"),
        ("epoch run:7", "there are 1, 2, 10 and last"),
        ("rank:0", "begin at 1"),
        ("start:1.5", "neither whole steps nor shares"),
        ("sr:dog,cat", "neither in the prompt"),
        ("sr:,dog", "the first value is the text to look for, and is empty"),
        ("steps:1000000000", "steps is 1000000000; it must be from 1 to 1000"),
        ("prompt:a cat --s 1000000000", "steps is 1000000000; it must be from 1 to 1000"),
        ("prompt:a cat --w 100000", "width is 100000; it must be from 0 to 8192"),
        ('preset:"1,2', "never closed"),
        ("weight:1-1000, 1-1000", "at most 1000"),
    ],
)
def test_mistakes_are_named(library: LoraLibrary, axis: str, said: str) -> None:
    with pytest.raises(LoraError, match=said):
        plan_sheet(ImageSpec(prompt="a cat <lora:style:1>"), axis, "", "", library)


# --- tags -----------------------------------------------------------------------------------------------------


def test_the_tag_is_found_or_added(library: LoraLibrary) -> None:
    weights = "weight:0,0.5"
    assert prompts(library, "a cat", weights, lora="style") == ["a cat <lora:style:0>", "a cat <lora:style:0.5>"]
    assert prompts(library, "<lora:style:1:lbw=IND> a cat", weights) == [
        "<lora:style:0:lbw=IND> a cat",
        "<lora:style:0.5:lbw=IND> a cat",
    ]
    both = "a <lora:style:1> <lora:other:0.3>"
    assert prompts(library, both, "weight other:1")[0] == "a <lora:style:1> <lora:other:1>"
    assert prompts(library, both, "te:0.2", "unet:0.7") == ["a <lora:style:0.2:0.7> <lora:other:0.3>"]
    with pytest.raises(LoraError, match="which LoRA is meant"):
        prompts(library, "a cat", weights)


def test_a_run_is_swapped_in_the_tag_whatever_the_order_of_axes(library: LoraLibrary) -> None:
    expected = {f"a <lora:{name}:{weight}>" for name in RUN for weight in (0.5, 1)}
    for prompt in ("a <lora:run-000002:0.3>", "a <lora:run:1>", "a"):
        assert set(prompts(library, prompt, "epoch run:all", "weight:0.5,1")) == expected
        assert set(prompts(library, prompt, "weight:0.5,1", "epoch run:all")) == expected
    assert prompts(library, "<lora:style:1> a", "epoch run:2,last") == [
        "<lora:style:1> a <lora:run-000002:1>",
        "<lora:style:1> a <lora:run:1>",
    ]


def test_epochs_are_in_order_and_in_their_own_folder(library: LoraLibrary) -> None:
    axis = axes.parse_axis("epoch:all", AxisContext(library, ImageSpec(prompt="<lora:run:1>")))
    assert [value.label for value in axis.values] == ["epoch 1", "epoch 2", "epoch 10", "last"]
    assert prompts(library, "<lora:run:1>", "epoch:2-20") == ["<lora:run-000002:1>", "<lora:run-000010:1>"]
    assert group_by_run(["b-step00000200", "b-step00000100"])["b"] == (
        RunFile("b-step00000100", "b", step=100),
        RunFile("b-step00000200", "b", step=200),
    )
    assert (
        group_by_run(["a", "b"]) == {}
        and parse_run_file("x-000004").epoch == 4
        and parse_run_file("sub/x-000004").run == "sub/x"
    )


def test_blocks_ranks_steps(library: LoraLibrary) -> None:
    (off, on) = prompts(library, "<lora:style:1>", "block OUT05:0,1")
    request = parse_lora_tags(off)[1][0]
    assert request.lbw and parse_block_weights(request.lbw).weights == {
        label: float(label != "OUT05") for label in BLOCK_LAYOUTS[26].labels
    }
    assert set(parse_block_weights(parse_lora_tags(on)[1][0].lbw or "").weights.values()) == {1.0}
    kept = parse_lora_tags(prompts(library, "<lora:style:1:lbw=OUTALL>", "block:OUT05=0.5")[0])[1][0]
    expected = dict(parse_block_weights("OUTALL").weights) | {"OUT05": 0.5}
    assert kept.lbw and parse_block_weights(kept.lbw).weights == expected
    assert len(prompts(library, "<lora:style:1>", "block:IN04-OUT05=0")) == len(BLOCK_LAYOUTS[26].labels[5:20])
    ranks = [parse_lora_tags(text)[1][0].dyn for text in prompts(library, "<lora:dy:1>", "rank:all")]
    assert ranks == [2, 4, 6, 8]
    steps = [
        parse_lora_tags(text)[1][0]
        for text in prompts(library, "<lora:dy:1>", "start:0,5,none,0.5", "stop:0.0-1.0 [3]")
    ]
    assert [(r.start, r.stop) for r in steps[:4]] == [(0, 0.0), (5, 0.0), (None, 0.0), (0.5, 0.0)]
    assert [type(r.start) for r in steps[:4]] == [int, int, type(None), float]
    assert prompts(library, "<lora:dy:1>", 'preset:INS,"1,0,0,0,0,0,0,0,0,0,0,0"')[1].count(",") == 11


def test_other_axes(library: LoraLibrary) -> None:
    base = ImageSpec(prompt="a cat <lora:style:1>", negative_prompt="cat ears")
    made = plan_sheet(base, "sr:cat,dog", "seed:3,-1", "cfg:3,5", library)
    assert [cell.image_spec.prompt for cell in made.cells[:2]] == ["a cat <lora:style:1>", "a dog <lora:style:1>"]
    assert made.cells[1].image_spec.negative_prompt == "dog ears" and made.cells[0].image_spec.seed == 3
    assert (
        made.cells[2].image_spec.seed
        == plan_sheet(base, "sr:cat,dog", "seed:3,-1", "", library).cells[2].image_spec.seed
        >= 0
    )
    assert [cell.image_spec.cfg for cell in (made.cells[0], made.cells[-1])] == [3, 5]
    scenes = plan_sheet(base, "prompt:a dog | two birds", "weight:0.5", "sampler:Euler", library).cells
    assert [c.image_spec.prompt for c in scenes] == ["a dog <lora:style:0.5>", "two birds <lora:style:0.5>"]
    assert scenes[0].image_spec.sampler == "Euler" and scenes[0].tag == "<lora:style:0.5>"


@given(st.text("a<>lor:0.5 ", max_size=30), st.sampled_from(["style", "run-000001"]))
def test_edits_keep_the_text_and_leave_one_readable_tag(text: str, name: str) -> None:
    changed = edit_tag(text, name, lambda request: request)
    assert find_tag(changed, name)
    assert edit_tag(changed, name, lambda request: request) == changed


def test_every_kind_has_an_example_that_reads(library: LoraLibrary) -> None:
    image_spec = ImageSpec(prompt="a cat <lora:run:1>")
    for kind in AXIS_KINDS.values():
        for example in kind.example.split(" or "):
            text = example.replace("one,other", "style,other").replace("2-6", "2-9").replace("rank:all", "rank dy:all")
            assert axes.parse_axis(text, AxisContext(library, image_spec)).values, example


# --- plans -----------------------------------------------------------------------------------------------------


def _keys(made: SheetPlan) -> list[str]:
    return [cell.image_spec.key() for cell in made.cells]


def test_an_axis_that_another_one_overrides_is_refused(library: LoraLibrary) -> None:
    for x, y in (("weight:0,1", "weight:0.5,1"), ("unet:0,1", "weight:0,1"), ("seed:1,2", "seed:5,6,7")):
        with pytest.raises(LoraError, match=f"axis '{x}' has no effect: another axis sets the same"):
            prompts(library, "a <lora:style:1>", x, y)
    assert len(prompts(library, "a <lora:style:1>", "weight:0,1", "unet:0,1")) == 4  # te stays the weight's
    assert len(prompts(library, "a <lora:style:1>", "cfg:5", "cfg:3,7")) == 2
    assert len(prompts(library, "a red cat <lora:style:1>", "sr:cat,dog", "sr:red,blue")) == 4


def test_equal_pictures_once(library: LoraLibrary) -> None:
    made = plan_sheet(ImageSpec(prompt="a <lora:run:1>"), "epoch:all", "weight:0,1,1.0", "", library)
    assert (
        len(made.cells) == 12 and len(unique_image_specs((c.image_spec for c in made.cells), ImageSpec.key)) == 5
    )  # no LoRA, and four files
    assert (
        ImageSpec(prompt="a", lora="x").key()
        == ImageSpec(prompt="a <lora:x:0>").key()
        != ImageSpec(prompt="a", seed=1).key()
    )
    assert ImageSpec(prompt="a <lora:x:1>").key("file 1") != ImageSpec(prompt="a <lora:x:1>").key("file 2")


def test_batches_share_what_they_must_and_switch_least(library: LoraLibrary) -> None:
    image_spec = ImageSpec(prompt="a <lora:run:1>")
    made = plan_sheet(image_spec, "seed:1,2,3", "epoch:all", "steps:4,8", library)
    groups = batch_image_specs([cell.image_spec for cell in made.cells], 5)
    assert all(len({image_spec.batch_key() for image_spec in group}) == 1 and len(group) <= 5 for group in groups)
    assert sorted(image_spec.key() for group in groups for image_spec in group) == sorted(_keys(made))
    assert [len(group) for group in groups] == [5, 5, 2] * 2
    row = [image_spec.tags()[0].name for group in groups[:3] for image_spec in group]
    assert row == [name for name in RUN for _ in range(3)]  # each file is taken up once
    alone = batch_image_specs([cell.image_spec for cell in made.cells], 5, lambda image_spec: image_spec)
    row = [image_spec.tags()[0].name for (image_spec,) in alone]
    assert row == [name for name in RUN for _ in range(6)]  # also where nothing can share a batch


def test_a_sheet_has_limits(library: LoraLibrary) -> None:
    with pytest.raises(LoraError, match="1000 × 30 × 1 are 30000 cells"):
        plan_sheet(ImageSpec(prompt="a"), "seed:1-1000", "steps:1-30", "", library)


# --- the web UI's plot -------------------------------------------------------------------------------------------


class AxisOption:
    """As the plot script's own."""

    def __init__(self, label: str, type: type, apply: Any, format_value: Any = None, confirm: Any = None,
                 cost: float = 0.0, choices: Any = None, prepare: Any = None) -> None:  # fmt: skip
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


@pytest.fixture
def plot(monkeypatch: pytest.MonkeyPatch, library: LoraLibrary) -> Any:
    """The plot's list of axes with ours in it, and a function that walks a plot as the web UI does."""
    fake = ModuleType("modules.scripts")
    script = SimpleNamespace(axis_options=[AxisOption("Seed", int, None)], AxisOption=AxisOption)
    kind = type("Script", (), {"__module__": "xyz_grid.py"})
    fake.scripts_data = [SimpleNamespace(script_class=kind, module=script)]  # type: ignore[attr-defined]
    modules = ModuleType("modules")
    modules.scripts = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modules", modules)
    monkeypatch.setitem(sys.modules, "modules.scripts", fake)
    monkeypatch.delitem(sys.modules, "lora_ext.host.a1111.xyz_axes", raising=False)
    from lora_ext.adapter_spec import Presets
    from lora_ext.host.a1111.xyz_axes import XyzAxes

    XyzAxes(lambda: library, Presets, lambda: "the one before Reload UI").add_to_plot()
    ours = XyzAxes(lambda: library, Presets, str)
    ours.add_to_plot()
    ours.add_to_plot()
    options = {option.label: option for option in script.axis_options}
    assert len(options) == len(script.axis_options) == 13

    def walk(p: Any, *rows: tuple[str, str]) -> list[str]:
        chosen = [(options[title], [part.strip() for part in text.split(",")]) for title, text in rows]
        for option, xs in chosen:
            option.confirm(p, xs)
        found = []
        for y in chosen[1][1] if len(chosen) > 1 else [None]:
            for x in chosen[0][1]:
                pc = copy.copy(p)
                chosen[0][0].apply(pc, x, chosen[0][1])
                if y is not None:
                    chosen[1][0].apply(pc, y, chosen[1][1])
                found.append(pc.prompt)
        return found

    return walk


def test_the_plot_gets_the_same_prompts(plot: Any, library: LoraLibrary) -> None:
    for prompt in ("a cat", "a <lora:run-000002:0.3>"):
        for rows in ((("LoRA epoch", "run: all"), ("LoRA weight", "0.5-1 [2]")),
                     (("LoRA weight", "0.5-1 [2]"), ("LoRA epoch", "run: all"))):  # fmt: skip
            p = SimpleNamespace(prompt=prompt, negative_prompt="", seed=1, hr_prompt="")
            ours = [("epoch run:all" if "epoch" in title else "weight:0.5,1") for title, _ in rows]
            assert plot(p, *rows) == prompts(library, prompt, *ours)
            assert p.prompt == prompt


def test_the_plots_hires_prompt_follows_where_it_has_the_tag(plot: Any) -> None:
    p = SimpleNamespace(prompt="a <lora:style:1>", negative_prompt="", seed=1, hr_prompt="b <lora:style:0.7>")
    (made,) = plot(p, ("LoRA one block's weight", "OUT05: 0.5"))
    assert parse_lora_tags(made)[1][0].lbw
    with pytest.raises(LoraError, match="did you mean"):
        plot(SimpleNamespace(prompt="a", negative_prompt="", seed=1, hr_prompt=""), ("LoRA file", "stile"))


@pytest.mark.parametrize(
    "values",
    ["<lora:style:0.5>, ,<lora:style:1>", '<lora:style:0.5>,"",<lora:style:1>', "<lora:style:0.5>,<lora:style:1>,"],
)
def test_an_empty_value_of_prompt_search_and_replace_removes_the_text(library: LoraLibrary, values: str) -> None:
    made = plan_sheet(ImageSpec(prompt="a cat <lora:style:0.5>"), f"sr:{values}", "", "", library)
    assert sorted(value.label for value in made.x.values) == ["(nothing)", "<lora:style:0.5>", "<lora:style:1>"]
    assert {cell.image_spec.prompt.strip() for cell in made.cells} == {
        "a cat <lora:style:0.5>",
        "a cat <lora:style:1>",
        "a cat",
    }
