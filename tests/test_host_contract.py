"""The contract that any host's `ports.Model` must pass, run here on small models of each family's names.

A host's own tests call `check` with its model and a file made for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.adapters import adapter_from_tensors
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.file import LoraFile
from lora_ext.inject import MODES, find_layer_targets
from lora_ext.layer_names import PARTS, UNET, LayerId, find_layer_id
from lora_ext.protocols import HookableModel


def lora_for(model: HookableModel, rank: int = 2) -> LoraFile:
    """A file with a LoRA for every Linear and Conv2d that the model has."""
    generator = torch.Generator().manual_seed(0)
    adapters = {}
    for part, root in model.parts().items():
        for layer_id, target in find_layer_targets(part, root).items():
            if len(target.shape) > 1:
                out, *rest = target.shape
                up = torch.randn(out, rank, *[1] * (len(rest) - 1), generator=generator)
                down = torch.randn(rank, *rest, generator=generator)
                adapters[layer_id] = adapter_from_tensors(
                    {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1.0)}
                )
    return LoraFile(adapters)  # type: ignore[arg-type]


def _weights(model: HookableModel) -> dict[tuple[str, str], tuple[int, Tensor]]:
    """Every parameter: the object, and a copy of its values."""
    return {
        (part, name): (id(parameter), parameter.detach().clone())
        for part, root in model.parts().items()
        for name, parameter in root.named_parameters()
    }


def _hooks(model: HookableModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for r in model.parts().values() for m in r.modules())


def check(model: HookableModel, mode: str) -> None:
    """Parts have known names and modules; everything that is put on comes off again, to the very same objects."""
    parts = model.parts()
    assert set(parts) <= set(PARTS)
    assert UNET in parts
    for part, root in parts.items():
        assert isinstance(root, nn.Module)
        assert any(find_layer_id(part, name) for name, _ in root.named_modules()), (
            f"no layer of {part} has a known name"
        )
    assert {p: id(r) for p, r in model.parts().items()} == {p: id(r) for p, r in parts.items()}
    before, hooks = _weights(model), _hooks(model)
    file = lora_for(model)
    with AppliedNetworks(model, mode) as applied:
        for specs in (
            [AdapterSpec(file)],
            [AdapterSpec(file, 0.5), AdapterSpec(file, -1, 2)],
            [AdapterSpec(file, start=1)],
            [AdapterSpec(file, stop=0.5)],
        ):
            fits = applied.apply(specs)
            assert all(fit.matched == len(file.adapters) for fit in fits)
            for step in range(3):
                applied.at_step(step, 3)
        applied.apply([])
        _same(before, _weights(model))
        applied.apply([AdapterSpec(file)])
    _same(before, _weights(model))
    with pytest.raises(KeyboardInterrupt), AppliedNetworks(model, mode) as applied:
        applied.apply([AdapterSpec(file)])
        raise KeyboardInterrupt
    _same(before, _weights(model))
    assert _hooks(model) == hooks


def _same(before: Mapping[object, tuple[int, Tensor]], after: Mapping[object, tuple[int, Tensor]]) -> None:
    assert before.keys() == after.keys()
    for key, (identity, value) in before.items():
        assert after[key][0] == identity, key
        assert torch.equal(after[key][1], value), key


# --- small models with the names of each family


def _tree(shapes: Mapping[str, nn.Module]) -> nn.Module:
    """A module whose dotted names are the keys."""
    root = nn.Module()
    for name, layer in shapes.items():
        *path, last = name.split(".")
        module = root
        for step in path:
            if step not in module._modules:
                module.add_module(step, nn.Module())
            module = module.get_submodule(step)
        module.add_module(last, layer)
    return root


class Small:
    """A few layers of a family, as a `ports.Model`."""

    def __init__(self, **parts: nn.Module) -> None:
        self._parts = parts

    def parts(self) -> Mapping[str, nn.Module]:
        return self._parts


def _ldm_unet() -> nn.Module:
    return _tree(
        {
            "input_blocks.0.0": nn.Conv2d(4, 8, 3, padding=1),
            "input_blocks.4.0.in_layers.2": nn.Conv2d(8, 8, 3, padding=1),
            "input_blocks.4.1.transformer_blocks.0.attn1.to_q": nn.Linear(8, 8),
            "middle_block.1.proj_in": nn.Conv2d(8, 8, 1),
            "output_blocks.3.1.transformer_blocks.0.ff.net.0.proj": nn.Linear(8, 16),
        }
    )


def _clip() -> nn.Module:
    return _tree({"text_model.encoder.layers.0.self_attn.q_proj": nn.Linear(8, 8)})


def _open_clip() -> nn.Module:
    return _tree(
        {
            "transformer.resblocks.0.attn": nn.MultiheadAttention(8, 2),
            "transformer.resblocks.0.mlp.c_fc": nn.Linear(8, 32),
        }
    )


MODELS = {
    "SD1 in LDM names": lambda: Small(unet=_ldm_unet(), te=_clip()),
    "SD2 in LDM names": lambda: Small(unet=_ldm_unet(), te=_open_clip()),
    "SDXL in LDM names": lambda: Small(unet=_ldm_unet(), te=_clip(), te2=_open_clip()),
    "SD1 in half precision": lambda: Small(unet=_ldm_unet().half(), te=_clip().half()),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_contract(name: str, mode: str) -> None:
    check(MODELS[name](), mode)


def test_the_maker_reaches_every_kind_of_layer() -> None:
    file = lora_for(MODELS["SDXL in LDM names"]())
    assert {layer_id.part for layer_id in file.adapters} == set(PARTS)
    assert LayerId("te2", "BASE", "layers.0.self_attn.out_proj") in file.adapters


def test_loading_weights_goes_into_the_originals() -> None:
    model = MODELS["SD1 in LDM names"]()
    unet = model.parts()[UNET]
    new = {name: torch.full_like(value, 0.5) for name, value in unet.state_dict().items()}
    applied = AppliedNetworks(model, "baked")
    applied.apply([AdapterSpec(lora_for(model))])
    unet.load_state_dict(new)
    assert all(torch.equal(value, new[name]) for name, value in unet.state_dict().items())
    applied.close()
    assert all(torch.equal(value, new[name]) for name, value in unet.state_dict().items())
