"""Laws of models whose weights belong to patchers: applied is the exact sum, removed is bit-equal.

They run on stand-ins (`test_patched_models.py`), and on the patcher classes of real web UIs (`real_patchers.py`).
"""

# ruff: noqa: B023 (the functions that loops define are called before the loop goes on)
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from makers import KINDS, make, suits
from reference import reference, reference_bias
from torch import Tensor, nn
from torch.nn import functional as F

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.adapters import adapter_from_tensors
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.block_weights import parse_block_weights
from lora_ext.file import LoraFile
from lora_ext.host.patched.model import PatchedModel
from lora_ext.host.patched.model_patches import has_patches_of_others
from lora_ext.inject import AUTO, BAKED, LIVE, find_layer_targets
from lora_ext.layer_names import UNET, LayerId


class PatchingHost(Protocol):
    """A web UI: its model, and what loads a patcher before its model is used."""

    sd_model: Any
    is_exact: bool

    def load(self, patcher: Any) -> None:
        """Loads a patcher."""
        ...


def tree(layers: Mapping[str, nn.Module]) -> nn.Module:
    """A module whose dotted names are the keys."""
    root = nn.Module()
    for name, leaf in layers.items():
        *path, last = name.split(".")
        module = root
        for step in path:
            if step not in module._modules:
                module.add_module(step, nn.Module())
            module = module.get_submodule(step)
        module.add_module(last, leaf)
    return root


def small_unet(ops: Any = nn) -> nn.Module:
    """`forge_objects.unet.model`: LDM's names, one layer without a bias, convolutions and a norm, of `ops`."""
    block = "diffusion_model.input_blocks.4.1.transformer_blocks.0"
    return tree(
        {
            "diffusion_model.input_blocks.4.0.in_layers.2": ops.Conv2d(8, 12, 3, padding=1),
            f"{block}.attn1.to_q": ops.Linear(12, 12, bias=False),
            f"{block}.norm1": ops.LayerNorm(12),
            "diffusion_model.middle_block.1.proj_in": ops.Conv2d(8, 12, 1),
            "diffusion_model.output_blocks.3.1.transformer_blocks.0.ff.net.0.proj": ops.Linear(12, 16),
        }
    )


def small_clip(ops: Any = nn) -> nn.Module:
    """`forge_objects.clip.cond_stage_model`."""
    layer = "clip_l.transformer.text_model.encoder.layers.0"
    return tree({f"{layer}.self_attn.q_proj": ops.Linear(12, 12), f"{layer}.mlp.fc1": ops.Linear(12, 16)})


class Run:
    """One web UI and what is checked of it."""

    def __init__(self, host: PatchingHost) -> None:
        self.host, self.sd_model = host, host.sd_model
        self.model = PatchedModel(self.sd_model)
        self.targets = {
            layer_id: target
            for part, root in self.model.parts().items()
            for layer_id, target in find_layer_targets(part, root).items()
        }
        self.before = {layer_id: t.module.weight.detach().clone() for layer_id, t in self.targets.items()}
        self.biases = {
            layer_id: t.module.bias.detach().clone()
            for layer_id, t in self.targets.items()
            if t.module.bias is not None
        }
        self.patches = self._patches()

    def image(self, activate: Callable[[], object] = lambda: None) -> None:
        """What the host does for an image: objects from the original, tags, objects with LoRA, models are loaded."""
        sd_model = self.sd_model
        sd_model.forge_objects = sd_model.forge_objects_original.shallow_copy()
        activate()
        sd_model.forge_objects = sd_model.forge_objects_after_applying_lora.shallow_copy()
        self.load()

    def load(self) -> None:
        self.host.load(self.sd_model.forge_objects.clip.patcher)
        self.host.load(self.sd_model.forge_objects.unet)

    def file(self, kind: str, seed: int = 0) -> LoraFile:
        """A file with this kind of adapter on every layer that it suits."""
        adapters = {
            layer_id: adapter_from_tensors(make(kind, target.shape, layer=f"{seed}{layer_id}"))
            for layer_id, target in self.targets.items()
            if suits(kind, target.shape)
        }
        return LoraFile(adapters)  # type: ignore[arg-type]

    def delta(self, kind: str, layer_id: LayerId, seed: int = 0) -> np.ndarray:
        """ΔW at weight 1, float64."""
        weight = self.before[layer_id].double().numpy()
        return reference(kind, make(kind, self.targets[layer_id].shape, layer=f"{seed}{layer_id}"), weight) - weight

    def expect(
        self, deltas: Callable[[LayerId], np.ndarray | float], live: bool = False, but: Sequence[LayerId] = ()
    ) -> None:
        """Every layer computes with W + ΔW: as its parameter (baked), or as its output (live)."""
        for layer_id, target in self.targets.items():
            if layer_id in but:
                continue
            weight, module = self.before[layer_id], target.module
            wanted = torch.from_numpy(weight.double().numpy() + deltas(layer_id))
            tolerance = {"atol": 2e-5, "rtol": 2e-5} if weight.dtype == torch.float32 else {"atol": 2e-3, "rtol": 2e-3}
            if live:
                assert torch.equal(module.weight, weight), f"{layer_id}: a parameter was changed"
                made, asked = output(module), output(module, wanted)
                tolerance = {"atol": tolerance["atol"] * 20, "rtol": tolerance["rtol"] * 20}
            else:
                made, asked = module.weight.detach(), wanted
            assert torch.allclose(made.double(), asked.double(), **tolerance), layer_id

    def expect_untouched(self) -> None:
        """The model is bit-equal to what it was, without hooks; the host has its own patchers back."""
        for layer_id, target in self.targets.items():
            assert torch.equal(target.module.weight, self.before[layer_id]), layer_id
            if layer_id in self.biases:
                assert torch.equal(target.module.bias, self.biases[layer_id]), layer_id
            assert not target.module._forward_hooks, layer_id
        original, after = self.sd_model.forge_objects_original, self.sd_model.forge_objects_after_applying_lora
        assert after.unet is original.unet and after.clip is original.clip
        assert self.sd_model.current_lora_hash == "[]"
        assert self._patches() == self.patches

    def own_patches(self) -> list[object]:
        """Our patches on the objects of the image: rows (strength, patch, …)."""
        objects = self.sd_model.forge_objects
        found = []
        for patcher in (objects.unet, objects.clip.patcher):
            lists = list(patcher.lora_patches.values()) if hasattr(patcher, "lora_patches") else [patcher.patches]
            found += [row[1] for rows_by_name in lists for rows in rows_by_name.values() for row in rows]
        return found

    def _patches(self) -> str:
        """The patches of the host's own patchers, which stay as they are."""
        objects = self.sd_model.forge_objects_original
        return str(
            [getattr(p, "lora_patches", getattr(p, "patches", None)) for p in (objects.unet, objects.clip.patcher)]
        )


def output(module: nn.Module, weight: Tensor | None = None) -> Tensor:
    """A layer's output for a fixed input; with `weight` computed in float64 without the layer's own forward."""
    generator = torch.Generator().manual_seed(1)
    size = (2, module.in_channels, 5, 5) if isinstance(module, nn.Conv2d) else (2, 3, module.weight.shape[-1])
    x = torch.randn(*size, generator=generator)
    if weight is None:
        return module(x.to(module.weight.dtype)).detach().double()
    bias = None if module.bias is None else module.bias.detach().double()
    if isinstance(module, nn.Conv2d):
        return F.conv2d(x.double(), weight, bias, module.stride, module.padding)
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x.double(), module.normalized_shape, weight, bias, module.eps)
    return F.linear(x.double(), weight, bias)


# --- the laws


def every_kind_is_the_exact_sum(run: Run) -> None:
    for kind in KINDS:
        file = run.file(kind)
        with AppliedNetworks(run.model, BAKED) as applied:
            run.image(lambda: applied.apply([AdapterSpec(file, 0.7, 0.7)]))
            shifts = {site: reference_bias(adapter.tensors) for site, adapter in file.adapters.items()}
            shifts = {site: 0.7 * shift.ravel() for site, shift in shifts.items() if shift is not None}
            without_bias = [site for site in shifts if site not in run.biases]  # a patch cannot add a bias: live
            run.expect(lambda s: 0.7 * run.delta(kind, s) if s in file.adapters else 0.0, but=without_bias)
            for site, shift in shifts.items():
                module = run.targets[site].module
                if site in run.biases:
                    made = module.bias.detach().double() - run.biases[site].double()
                else:
                    wanted = run.before[site].double() + torch.from_numpy(0.7 * run.delta(kind, site))
                    made = output(module) - output(module, wanted)
                assert np.allclose(made.numpy(), shift, atol=1e-4), site
            assert run.own_patches() and all(is_ready(v) != run.host.is_exact for v in run.own_patches()), kind
            run.image(lambda: applied.apply([]))
            run.expect_untouched()
    run.image()
    run.expect_untouched()


def is_ready(patch: object) -> bool:
    """Whether a patch is a difference that was computed beforehand."""
    return isinstance(patch, tuple) and len(patch) == 1


def files_and_weights_add_up(run: Run) -> None:
    one, two = run.file("lora", 1), run.file("loha", 2)
    run.sd_model.current_lora_hash = "[['another', 1.0, 1.0, False]]"  # what the built-in extension had applied
    with AppliedNetworks(run.model, BAKED) as applied:
        specs: Sequence[tuple[list[AdapterSpec], Callable[[LayerId], Any]]] = (
            ([AdapterSpec(one)], lambda s: run.delta("lora", s, 1)),
            ([AdapterSpec(one), AdapterSpec(one)], lambda s: 2 * run.delta("lora", s, 1)),
            ([AdapterSpec(one, -0.5, -0.5)], lambda s: -0.5 * run.delta("lora", s, 1)),
            ([AdapterSpec(one, 0.0, 1.0)], lambda s: run.delta("lora", s, 1) if s.part == UNET else 0.0),
            ([AdapterSpec(one, 1.0, 0.0)], lambda s: 0.0 if s.part == UNET else run.delta("lora", s, 1)),
            ([AdapterSpec(one), AdapterSpec(two, 0.5, 2.0)], lambda s: run.delta("lora", s, 1)
             + (2.0 if s.part == UNET else 0.5) * run.delta("loha", s, 2)),
        )  # fmt: skip
        for wanted, deltas in specs:
            run.image(lambda wanted=wanted: applied.apply(wanted))
            run.expect(lambda s, deltas=deltas: deltas(s) if s in one.adapters else 0.0)
            run.image(lambda wanted=wanted: applied.apply(wanted))  # another image with the same tags
            run.expect(lambda s, deltas=deltas: deltas(s) if s in one.adapters else 0.0)
    run.image()
    run.expect_untouched()


def block_weights_and_ranks(run: Run) -> None:
    file = run.file("lora")
    weights = parse_block_weights("1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1")
    factors = {"IN04": 0.0, "MID": 0.0}
    with AppliedNetworks(run.model, BAKED) as applied:
        run.image(lambda: applied.apply([AdapterSpec(file, blocks=weights)]))
        run.expect(lambda s: factors.get(s.block, 1.0) * run.delta("lora", s) if s in file.adapters else 0.0)
        run.image(lambda: applied.apply([AdapterSpec(file, dyn=1)]))

        def first_rank(site: LayerId) -> np.ndarray | float:
            if site not in file.adapters:
                return 0.0
            t = {name: tensor.double().numpy() for name, tensor in file.adapters[site].tensors.items()}
            up, down = t["lora_up.weight"], t["lora_down.weight"]
            scale = float(t["alpha"]) / down.shape[0]
            flat = up.reshape(len(up), -1)[:, :1] @ down.reshape(len(down), -1)[:1]
            return scale * flat.reshape(tuple(run.targets[site].shape))

        run.expect(first_rank)
    run.image()
    run.expect_untouched()


def schedules_are_live(run: Run) -> None:
    """Also of kinds that need the original weight, while the patcher has replaced it."""
    for kind in ("lora", "lora-dora-in", "lora-dora-out", "glora"):
        file = run.file(kind)
        with AppliedNetworks(run.model, BAKED) as applied:
            run.image(lambda: applied.apply([AdapterSpec(file)]))
            run.sd_model.forge_objects.unet = run.sd_model.forge_objects.unet.clone()  # an extension's, for this image
            run.load()
            # the parameters are still W + ΔW when the next image's tags are applied
            run.image(lambda: applied.apply([AdapterSpec(file, 0.0, stop=0.9)]))
            run.expect(lambda s: run.delta(kind, s) if s in file.adapters and s.part == UNET else 0.0, live=True)
            applied.apply([AdapterSpec(file, 0.0, start=1)])
            run.image()
            run.expect(lambda s: 0.0)
            applied.at_step(1, 3)
            run.expect(lambda s: run.delta(kind, s) if s in file.adapters and s.part == UNET else 0.0, live=True)
            run.image(lambda: applied.apply([AdapterSpec(file)]))
            run.expect(lambda s: run.delta(kind, s) if s in file.adapters else 0.0)
        run.image()
        run.expect_untouched()


def modes_agree(run: Run) -> None:
    file = run.file("loha")
    for mode in (LIVE, AUTO):
        with AppliedNetworks(run.model, mode) as applied:
            run.image(lambda: applied.apply([AdapterSpec(file)]))
            run.expect(lambda s: run.delta("loha", s) if s in file.adapters else 0.0, live=mode == LIVE)
        run.image()
        run.expect_untouched()


def nested_ones_add_up_and_end_in_any_order(run: Run) -> None:
    one, two = run.file("lora", 1), run.file("lora", 2)
    for outer_first in (True, False):
        first, second = AppliedNetworks(run.model, BAKED), AppliedNetworks(run.model, BAKED)
        run.image(lambda: first.apply([AdapterSpec(one)]))
        run.image(lambda: second.apply([AdapterSpec(two)]))
        run.expect(lambda s: run.delta("lora", s, 1) + run.delta("lora", s, 2) if s in one.adapters else 0.0)
        (first if outer_first else second).close()
        run.image()
        left = 2 if outer_first else 1
        run.expect(lambda s: run.delta("lora", s, left) if s in one.adapters else 0.0)
        (second if outer_first else first).close()
        run.image()
        run.expect_untouched()


def an_error_leaves_nothing(run: Run) -> None:
    file, bad = run.file("lora"), run.file("glora")
    applied = AppliedNetworks(run.model, BAKED)
    run.image(lambda: applied.apply([AdapterSpec(file)]))
    for adapter in bad.adapters.values():
        object.__setattr__(adapter, "bias_delta", _fail)
    try:
        applied.apply([AdapterSpec(file), AdapterSpec(bad)])
    except ArithmeticError:
        pass
    else:
        raise AssertionError("the error was lost")
    run.image()
    run.expect_untouched()


def _fail() -> Tensor:
    raise ArithmeticError("this adapter fails")


def patches_of_others_stay(run: Run) -> None:
    """Another extension has patched the host's objects; an extension clones ours in the middle of an image."""
    file, name = run.file("lora"), "diffusion_model.middle_block.1.proj_in.weight"
    site = next(site for site, t in run.targets.items() if site.part == UNET and site.block == "MID")
    more = torch.full_like(run.before[site], 0.25)
    with AppliedNetworks(run.model, BAKED) as applied:
        applied.apply([AdapterSpec(file)])
        assert run.own_patches() and not has_patches_of_others(run.sd_model)
    objects, after = run.sd_model.forge_objects_original, run.sd_model.forge_objects_after_applying_lora
    after.unet = objects.unet.clone()
    give = {"filename": "another", "online_mode": False} if hasattr(after.unet, "lora_patches") else {}
    after.unet.add_patches(patches={name: (more,)}, **give)
    assert has_patches_of_others(run.sd_model)
    with AppliedNetworks(run.model, BAKED) as applied:
        run.image(lambda: applied.apply([AdapterSpec(file)]))
        assert has_patches_of_others(run.sd_model)
        run.expect(lambda s: (run.delta("lora", s) if s in file.adapters else 0.0) + (0.25 if s == site else 0.0))
        run.sd_model.forge_objects.unet = run.sd_model.forge_objects.unet.clone()  # as ControlNet does
        run.load()
        run.expect(lambda s: (run.delta("lora", s) if s in file.adapters else 0.0) + (0.25 if s == site else 0.0))
        applied.apply([AdapterSpec(file, 2.0, 2.0)])  # in the middle of the image
        run.load()
        run.expect(lambda s: (2 * run.delta("lora", s) if s in file.adapters else 0.0) + (0.25 if s == site else 0.0))
    run.image()
    run.expect(lambda s: 0.25 if s == site else 0.0)
    after.unet = objects.unet
    run.image()
    run.expect_untouched()


LAWS: dict[str, Callable[[Run], None]] = {
    law.__name__: law
    for law in (
        every_kind_is_the_exact_sum,
        files_and_weights_add_up,
        block_weights_and_ranks,
        schedules_are_live,
        modes_agree,
        nested_ones_add_up_and_end_in_any_order,
        an_error_leaves_nothing,
        patches_of_others_stay,
    )
}
