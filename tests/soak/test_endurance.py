"""Thousands of changes of what is applied and hundreds of trainings in one process: nothing left, flat memory."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from makers import KINDS, suits
from resident_memory import check_flat, resident_bytes, slower
from tiny import Tiny, lora_file
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.block_weights import parse_block_weights
from lora_ext.inject import MODES
from lora_ext.training.standalone_run import train
from lora_ext.weight_curve import parse_curve

CHANGES, TRAININGS = 10_000, 200
LINEAR = (8, 8)
Record = Callable[[str, object], None]


def random_spec(draw: random.Random, files: list[Any]) -> AdapterSpec:
    """A file with what a tag may say: weights of either sign, blocks, first ranks, steps or a curve."""
    steps: dict[str, Any] = draw.choice([{}, {"start": 1}, {"stop": 2}, {"start": 0.2, "stop": 0.6}, {"curve": CURVE}])
    blocks = parse_block_weights(draw.choice(["ALL", "1,0,1,0.5,1,0,1,0,1,1,1,1,0,0,1,1,1"]))
    return AdapterSpec(
        draw.choice(files), te=draw.uniform(-1, 1), unet=draw.uniform(-1, 1), blocks=blocks,
        dyn=draw.choice([None, None, 1]), **steps,
    )  # fmt: skip


CURVE = parse_curve("0@0,1@0.5,0@1")


class Stopped(Exception):
    """What an interrupt raises in the middle of a step."""


def change(draw: random.Random, model: Tiny, files: list[Any], applied: AppliedNetworks) -> None:
    """One of the things that happen between and in pictures."""
    what = draw.choice(["apply", "apply", "step", "step", "draw", "live", "bake", "nest", "raise", "remove"])
    if what == "apply":
        applied.apply([random_spec(draw, files) for _ in range(draw.randrange(4))])
    elif what == "step":
        applied.at_step(draw.randrange(5), 5)
    elif what == "draw":
        model.draw()
    elif what == "live":
        applied.go_live()
    elif what == "bake":
        applied.bake_when_stable()
    elif what == "nest":
        with AppliedNetworks(model, draw.choice(MODES)) as inner:
            inner.apply([random_spec(draw, files)])
            model.draw()
    elif what == "raise":
        with pytest.raises(Stopped), AppliedNetworks(model, draw.choice(MODES)) as inner:
            inner.apply([random_spec(draw, files)])
            raise Stopped
    else:
        applied.apply([])


def test_changes_of_what_is_applied(record_property: Record) -> None:
    """Files of every kind; after each hundred changes the model has its own bits."""
    model, draw = Tiny(), random.Random(19)
    kinds = [kind for kind in KINDS if suits(kind, LINEAR)]
    files = [lora_file(model, kinds[n % len(kinds)], seed=n, name=f"f{n}", std=0.05) for n in range(30)]
    own = {name: p.clone() for part in model.parts().values() for name, p in part.named_parameters()}
    plain, readings, times = model.draw(), [], []
    for turn in range(CHANGES // 100):
        with AppliedNetworks(model, draw.choice(MODES)) as applied:
            for _ in range(100):
                change(draw, model, files, applied)
        found = {name: p for part in model.parts().values() for name, p in part.named_parameters()}
        assert found.keys() == own.keys() and all(torch.equal(found[name], own[name]) for name in own)
        assert all(map(torch.equal, model.draw(), plain))
        if turn % 5 == 4:
            readings.append(resident_bytes())
            times.append(time.process_time())
    record_property("changes", CHANGES)
    record_property("memory grew", f"{check_flat(readings):.1%}")
    record_property("time for equal work", slower(times))


def test_trainings_in_one_process(tmp_path: Path, record_property: Record) -> None:
    data, readings, times = pictures(tmp_path / "data"), [], []
    for number in range(TRAININGS):
        made = train(recipe(data, tmp_path / "out", output_name=f"run{number}", max_train_epochs=1), model=tiny_model())
        made.file.unlink()
        if number % 10 == 9:
            readings.append(resident_bytes())
            times.append(time.process_time())
    record_property("trainings", TRAININGS)
    record_property("memory grew", f"{check_flat(readings):.1%}")
    record_property("time for equal work", slower(times))
