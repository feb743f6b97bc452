"""Models whose weights belong to patchers, on stand-ins of every kind of patcher."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from patched_laws import LAWS, Run, small_clip, small_unet
from stand_in_patchers import FLAVOURS, StandInHost

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.errors import BakingMemoryError
from lora_ext.host.patched.model import PatchedModel
from lora_ext.inject import AUTO, BAKED, MemoryBudget


@pytest.fixture(params=FLAVOURS)
def host(request: pytest.FixtureRequest) -> Iterator[StandInHost]:
    torch.manual_seed(0)
    with StandInHost(request.param, small_unet(), small_clip()).loaded() as host:
        yield host


@pytest.mark.long
@pytest.mark.parametrize("law", LAWS)
def test_law(host: StandInHost, law: str) -> None:
    LAWS[law](Run(host))


def test_memory_for_originals_is_counted(host: StandInHost) -> None:
    """Baked is refused and "auto" goes live where main memory does not hold the originals."""
    run = Run(host)
    file, little = run.file("lora"), MemoryBudget(lambda device: 100)
    with (
        AppliedNetworks(run.model, BAKED, little) as applied,
        pytest.raises(BakingMemoryError, match="are free on cpu"),
    ):
        applied.apply([AdapterSpec(file)])
    run.image()
    run.expect_untouched()
    with AppliedNetworks(run.model, AUTO, little) as applied:
        run.image(lambda: applied.apply([AdapterSpec(file)]))
        run.expect(lambda s: run.delta("lora", s) if s in file.adapters else 0.0, live=True)
        assert "are free on cpu" in applied.injection.live_reason
    run.image()
    run.expect_untouched()


def test_out_of_memory_goes_live_only_where_that_frees_memory(host: StandInHost) -> None:
    run = Run(host)
    file, tries = run.file("lora"), []
    with AppliedNetworks(run.model, AUTO) as applied:
        run.image(lambda: applied.apply([AdapterSpec(file)]))

        def work() -> None:
            tries.append(1)
            if len(tries) == 1:
                raise torch.cuda.OutOfMemoryError("out of memory")
            run.load()  # sampling loads the patchers of `forge_objects` again

        applied.retry_when_out_of_memory(work)
        run.expect(lambda s: run.delta("lora", s) if s in file.adapters else 0.0, live=True)
        assert len(tries) == 2
    run.image()
    run.expect_untouched()
    for objects in (run.sd_model.forge_objects_original, run.sd_model.forge_objects_after_applying_lora):
        objects.unet.load_device = objects.clip.patcher.load_device = torch.device("meta")
    with AppliedNetworks(run.model, AUTO) as applied:
        run.image(lambda: applied.apply([AdapterSpec(file)]))
        tries.clear()
        with pytest.raises(torch.cuda.OutOfMemoryError):  # originals are in main memory: the GPU would not gain any
            applied.retry_when_out_of_memory(work)
        assert len(tries) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_below_16_bit_auto_is_live(host: StandInHost, dtype: torch.dtype) -> None:
    run = Run(host)
    for target in run.targets.values():
        for parameter in target.module.parameters():
            parameter.data = parameter.data.to(dtype)
    file = run.file("lora")
    with AppliedNetworks(run.model, AUTO) as applied:
        applied.apply([AdapterSpec(file)])
        hooked = {target.module for target in run.targets.values() if target.module._forward_hooks}
        assert len(hooked) == (len(file.adapters) if dtype == torch.float8_e4m3fn else 0)


def test_a_patcher_of_an_unknown_kind_gets_hooks() -> None:
    """Where a future patcher has neither list of patches, everything is live, whatever the setting says."""
    torch.manual_seed(0)
    host = StandInHost("patches by file, calculators", small_unet(), small_clip())
    for patcher in (host.sd_model.forge_objects_original.unet, host.sd_model.forge_objects_original.clip.patcher):
        del patcher.lora_patches
    model = PatchedModel(host.sd_model)
    assert model.create_injection(BAKED).mode == "live"
