"""Runs the laws of `patched_laws.py` on the patcher classes of a real web UI, with small modules.

    python tests/real_patchers.py FOLDER [LAW …]

FOLDER is a checkout of Forge, reForge, Classic or Neo; this Python needs what its patchers import (torch, psutil …).
The web UI is not started: only its patchers, its memory manager and its layers are imported.
"""

from __future__ import annotations

import os
import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from stand_in_patchers import Objects, SdModel

ROOT = Path(__file__).resolve().parent.parent


class Clip:
    """`forge_objects.clip`, whose real class needs tokenizers."""

    def __init__(self, patcher: Any) -> None:
        self.patcher, self.cond_stage_model = patcher, patcher.model

    def clone(self) -> Clip:
        return Clip(self.patcher.clone())


class RealHost:
    """The patchers and the memory manager of a checkout, which is in `sys.path`."""

    is_exact = True

    def __init__(self, folder: Path, unet: Any, clip: Any) -> None:
        if (folder / "backend" / "patcher" / "base.py").is_file():
            patcher = import_module("backend.patcher.base").ModelPatcher
            unet_patcher = import_module("backend.patcher.unet").UnetPatcher
            self.manager = import_module("backend.memory_management")
            ops = import_module("backend.operations").ForgeOperations
        else:
            import_module("ldm_patched.modules.args_parser").args.always_cpu = True
            patcher = import_module("ldm_patched.modules.model_patcher").ModelPatcher
            self.manager = import_module("ldm_patched.modules.model_management")
            ops = import_module("ldm_patched.modules.ops").manual_cast
            samplers = types.ModuleType("ldm_patched.modules.samplers")  # would import the whole web UI
            samplers.encode_model_conds = None  # type: ignore[attr-defined]
            sys.modules.setdefault(samplers.__name__, samplers)
            unet_patcher = import_module("modules_forge.unet_patcher").UnetPatcher
        cpu = torch.device("cpu")
        models = []
        for make in (unet, clip):
            torch.manual_seed(0)
            plain, model = make(), make(ops)
            model.load_state_dict(plain.state_dict())
            models.append(model.requires_grad_(False))
        places = {"load_device": cpu, "offload_device": cpu}
        self.sd_model = SdModel(
            Objects(unet=unet_patcher(models[0], **places), clip=Clip(patcher(models[1], **places)))
        )

    def load(self, patcher: Any) -> None:
        """Loads a patcher by the web UI's memory manager, as sampling does."""
        with torch.no_grad():
            self.manager.load_models_gpu([patcher])


def gguf_layers_are_live(folder: Path) -> None:
    """The web UI's own GGUF layers on the CPU: their output is that of the dequantised weight with ΔW."""
    import numpy as np
    from makers import make
    from patched_laws import tree
    from reference import reference

    from lora_ext.adapter_spec import AdapterSpec
    from lora_ext.adapters import adapter_from_tensors
    from lora_ext.applied_networks import AppliedNetworks
    from lora_ext.file import LoraFile
    from lora_ext.inject import AUTO, find_layer_targets

    operations = import_module("backend.operations").ForgeOperationsGGUF
    layers = import_module("backend.operations_gguf")
    gguf, parameter, dequantize = layers.gguf, layers.ParameterGGUF, layers.dequantize_tensor
    weight = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    for kind in ("Q4_0", "Q4_1", "Q5_0", "Q8_0"):
        layer, quantised = operations.Linear(64, 32), getattr(gguf.GGMLQuantizationType, kind)
        data = gguf.quants.quantize(weight, quantised)
        packed = types.SimpleNamespace(tensor_type=quantised, shape=(64, 32), data=data)
        layer.load_state_dict({"weight": parameter(packed)}, strict=False)
        root = tree({"input_blocks.4.1.transformer_blocks.0.attn1.to_q": layer})
        ((site, target),) = find_layer_targets("unet", root).items()
        assert tuple(target.shape) == (32, 64)
        for adapter in ("lora", "loha", "lora-dora-in", "lora-dora-out", "glora"):
            tensors = make(adapter, (32, 64))
            model = types.SimpleNamespace(parts=lambda root=root: {"unet": root})
            found = adapter_from_tensors(tensors)
            assert found is not None
            with AppliedNetworks(model, AUTO) as applied:
                applied.apply([AdapterSpec(LoraFile({site: found}))])
                layer.weight.gguf_cls.bake(layer.weight)  # as the memory manager does; what is baked stays as it is
                values = dequantize(layer.weight).double().numpy()
                x = torch.randn(3, 64, dtype=torch.float16, generator=torch.Generator().manual_seed(1))
                wanted = x.double().numpy() @ reference(adapter, tensors, values).T
                made = layer(x).double().numpy()
                assert np.allclose(made, wanted, atol=2e-2, rtol=1e-2), (kind, adapter, abs(made - wanted).max())
            assert not layer._forward_hooks


def main() -> None:
    """Runs the laws that are named, by default all; fails with the first that does not hold."""
    folder, names = Path(sys.argv[1]).resolve(), sys.argv[2:]
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "webui"), str(ROOT)]
    from forge_server import defined_flags

    sys.argv = [sys.argv[0], *defined_flags(folder, ("--always-cpu", "--cpu"))]
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(folder / "packages_3rdparty"), str(folder / "modules_forge" / "packages")]
    from patched_laws import LAWS, Run, small_clip, small_unet

    for name in names or LAWS:
        LAWS[name](Run(RealHost(folder, small_unet, small_clip)))
        print("holds:", name, flush=True)
    if not names and (folder / "backend" / "operations_gguf.py").is_file():
        gguf_layers_are_live(folder)
        print("holds: gguf_layers_are_live")


if __name__ == "__main__":
    main()
