"""Memory that runs out, by a limit of the system on this process: while LoRAs are applied, and while one is trained."""

from __future__ import annotations

import random
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from forked_process import run_forked
from safetensors.torch import load_file
from test_killed_tools import same_tensors
from tiny import Tiny, lora_file, unet
from tiny_trainable_model import pictures, recipe, resuming, tiny_model, train_as_a_command

from lora_ext.api import apply
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel

LIMITS = 12
"""Amounts of memory that are tried."""
MOST = 6 * 2**20
STEPS = 8
"""Of a run; memory runs out in each of them once."""
Record = Callable[[str, object], None]


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """This process gets so many bytes of address space beyond what it has."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_memory_that_runs_out_while_applying(tmp_path: Path, moments: random.Random, record_property: Record) -> None:
    """It is applied live instead, and says so; the picture is the same; afterwards the model has its own bits."""
    said = tmp_path / "said"

    def work(more: int) -> int:
        model = Tiny()
        model.unet = unet(block_out_channels=(128, 128, 128, 128))
        file, weights = lora_file(model, wide=True, std=0.05), dict(model.unet.named_parameters())
        copies = {name: weight.clone() for name, weight in weights.items()}
        with memory_limit(more):  # before anything is drawn, whose memory could be used again
            applied = apply(model, {file: 0.8}, mode="auto")
        with applied, said.open("a", encoding="utf-8") as lines:
            live = any("memory ran out while baking: live from now on" in str(fit) for fit in applied.fits)
            lines.write("live\n" if live else "baked\n")
            drawn = model.draw()
        found = dict(model.unet.named_parameters())
        assert all(found[name] is weights[name] and torch.equal(found[name], copies[name]) for name in weights)
        with apply(model, {file: 0.8}, mode="live"):
            assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(model.draw(), drawn, strict=True))
        return 0

    log = tmp_path / "log"
    for _ in range(LIMITS):
        more = moments.randrange(2**16, MOST)
        assert run_forked(partial(work, more), log)[0] == 0, log.read_text(encoding="utf-8")
    found = Counter(said.read_text(encoding="utf-8").split())
    assert found["live"], "no limit was too little"
    record_property("applied", dict(found))


class Full(StandaloneTrainableModel):
    """Its prediction wants more memory than there is when it is made for the `last`th time."""

    calls, last = 0, 0

    def predict(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        Full.calls += 1
        return torch.empty(10**15) if Full.calls == Full.last else super().predict(*args, **kwargs)


def test_memory_that_runs_out_while_training(tmp_path: Path, moments: random.Random, record_property: Record) -> None:
    """One sentence with what to turn on; what was saved is whole; with more memory it goes on to the same file."""
    data, log = pictures(tmp_path / "data"), tmp_path / "log"

    def run(folder: Path, last: int = 0) -> int:
        Full.last = last
        made = recipe(data, folder, save_state=True, save_every_n_steps=2, **resuming(folder))
        return train_as_a_command(made, Full(tiny_model().model))

    assert run_forked(lambda: run(tmp_path / "whole"), log)[0] == 0, log.read_text(encoding="utf-8")
    whole = tmp_path / "whole" / "last.safetensors"
    for last in range(1, STEPS + 1):
        out = tmp_path / str(last)
        log.write_text("", encoding="utf-8")
        code, _ = run_forked(partial(run, out, last), log)
        said = log.read_text(encoding="utf-8")
        assert code == 2 and "not enough memory" in said and "in this order, try" in said, said
        assert "Traceback" not in said
        for path in out.glob("*.safetensors"):
            assert load_file(path).keys() == load_file(whole).keys()
        assert run_forked(partial(run, out), log)[0] == 0, log.read_text(encoding="utf-8")
        assert same_tensors(out / "last.safetensors", whole)
    record_property("ran out", STEPS)
