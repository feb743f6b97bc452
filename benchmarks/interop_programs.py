"""Readers of LoRA files for `interop.py`: each lets one program's own code load a file into a small SD1 model.

`read(path, multiplier)` answers what the program adds to each layer's weight, by layer id; layers that it does not
change are missing. Programs in folders are imported from there, with stand-ins for the modules of a running application
(devices, settings) that the code in question imports and does not need.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from lora_ext.layer_names import LayerId, find_layer_id, layer_name_table

Changes = dict[LayerId, Tensor]


class SmallModel:
    """SD1's topology: a U-Net 8 wide and a text encoder of two layers, always with the same weights."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.unet = UNet2DConditionModel(
            block_out_channels=(8,) * 4, cross_attention_dim=16, attention_head_dim=4, norm_num_groups=4, sample_size=8
        ).eval()  # fmt: skip
        text = CLIPTextConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        )
        self.text_encoder = CLIPTextModel(text).eval()

    def layers(self) -> Iterator[tuple[LayerId, str, nn.Module]]:
        """(layer id, diffusers name, module) of all layers that have a matrix."""
        for part, root in (("unet", self.unet), ("te", self.text_encoder)):
            for name, module in root.named_modules():
                layer_id = find_layer_id(part, name)
                if layer_id is not None and isinstance(module, nn.Linear | nn.Conv2d):
                    yield layer_id, name, module

    def weights(self) -> Changes:
        """A copy of each layer's weight."""
        return {layer_id: module.weight.detach().clone() for layer_id, _, module in self.layers()}


class Program:
    """One program. `name` is its column; `version` tells which code was run."""

    name: str

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.model = SmallModel()  # for programs that do not change it
        self.base = self.model.weights()

    def version(self) -> str:
        """Version of the package, or of the folder's git checkout."""
        raise NotImplementedError

    def read(self, path: Path, multiplier: float) -> Changes:
        """What the program adds to each layer's weight."""
        raise NotImplementedError


def folder_version(folder: Path) -> str:
    """The tag or commit of a git checkout, else the folder's name."""
    asked = subprocess.run(
        ["git", "-C", str(folder), "describe", "--tags", "--always"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or folder.name


@contextmanager
def stand_ins(*names: str, **attributes: object) -> Iterator[None]:
    """Lets `import NAME.…` of these packages succeed: each module is a mock, with the given attributes."""

    class Finder:
        @staticmethod
        def find_spec(fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
            wanted = any(fullname == name or fullname.startswith(f"{name}.") for name in names)
            return ModuleSpec(fullname, Finder(), is_package=True) if wanted else None  # type: ignore[arg-type]

        @staticmethod
        def create_module(spec: ModuleSpec) -> types.ModuleType:
            module = MagicMock(spec=None, name=spec.name)
            module.__path__, module.__spec__ = [], spec
            return module

        @staticmethod
        def exec_module(module: types.ModuleType) -> None:
            for attribute, value in attributes.items():
                setattr(module, attribute, value)

    finder = Finder()
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]


# --- packages --------------------------------------------------------------------------------------------------------


class Diffusers(Program):
    """`load_lora_weights` and `set_adapters`; a layer's change is what its output changes by."""

    name = "diffusers"

    def version(self) -> str:
        """diffusers' and PEFT's."""
        return f"{version('diffusers')}, PEFT {version('peft')}"

    def read(self, path: Path, multiplier: float) -> Changes:
        """See `Program.read`."""
        model = SmallModel()
        parts = {"text_encoder": model.text_encoder, "unet": model.unet}
        empty = dict.fromkeys(("vae", "tokenizer", "scheduler", "safety_checker", "feature_extractor"))
        pipe = StableDiffusionPipeline(**parts, **empty, requires_safety_checker=False)
        pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="a")
        pipe.set_adapters("a", multiplier)
        return changes_of_peft_layers(model, self.base)


class Peft(Program):
    """`inject_adapter_in_model` from the tensors alone, as for a PEFT folder without alphas."""

    name = "PEFT"

    def version(self) -> str:
        """PEFT's."""
        return version("peft")

    def read(self, path: Path, multiplier: float) -> Changes:
        """See `Program.read`."""
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
        from peft.tuners.lora import LoraLayer

        model, tensors = SmallModel(), load_file(path)
        for prefix, root in (("unet.", model.unet), ("text_encoder.", model.text_encoder)):
            own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            ranks = {key.split(".lora_A")[0]: len(t) for key, t in own.items() if "lora_A" in key}
            if ranks:
                rank = max(ranks.values())
                dora = any("magnitude" in key for key in own)
                config = LoraConfig(
                    r=rank, target_modules=list(ranks), lora_alpha=rank, use_dora=dora, rank_pattern=ranks
                )
                inject_adapter_in_model(config, root, adapter_name="a")
                set_peft_model_state_dict(root, own, adapter_name="a")
                for module in root.modules():
                    if isinstance(module, LoraLayer):
                        module.set_scale("a", multiplier)
        return changes_of_peft_layers(model, self.base)


def changes_of_peft_layers(model: SmallModel, base: Changes) -> Changes:
    """What PEFT's layers in a model add to their weights: by their output for Linear, by `get_delta_weight` else."""
    found = {}
    for part, root in (("unet", model.unet), ("te", model.text_encoder)):
        for name, module in root.named_modules():
            if not hasattr(module, "get_delta_weight") or "a" not in module.scaling:
                continue
            layer_id = find_layer_id(part, name)
            assert layer_id is not None
            if isinstance(module.base_layer, nn.Linear):
                x = torch.eye(module.base_layer.in_features)
                with torch.no_grad():
                    found[layer_id] = (module(x) - module.base_layer(x)).T
            else:
                found[layer_id] = module.get_delta_weight("a").detach().reshape(base[layer_id].shape)
    return found


class LyCORIS(Program):
    """Each layer's module by `get_module`: its forward pass; of convolutions and "full" `get_merged_weight`."""

    name = "LyCORIS"

    def version(self) -> str:
        """The package's."""
        return version("lycoris-lora")

    def read(self, path: Path, multiplier: float) -> Changes:
        """See `Program.read`."""
        from lycoris.modules import get_module, make_module

        tensors, found = load_file(path), {}
        for layer_id, name, module in SmallModel().layers():
            key = f"lora_{layer_id.part}_{name.replace('.', '_')}"
            kind, parameters = get_module(tensors, key)
            if kind is not None:
                made = make_module(kind, parameters, key, module).eval()
                made.multiplier = multiplier
                with torch.no_grad():
                    if isinstance(module, nn.Linear) and kind.__name__ != "FullModule":
                        x = torch.eye(module.in_features)
                        found[layer_id] = (made(x) - nn.functional.linear(x, self.base[layer_id], module.bias)).T
                    else:
                        merged = made.get_merged_weight(multiplier)[0]
                        found[layer_id] = merged.reshape(module.weight.shape) - self.base[layer_id]
        return found


# --- folders ---------------------------------------------------------------------------------------------------------


class Kohya(Program):
    """`networks.lora`'s `create_network_from_weights` and `merge_to`; `networks.oft`'s module for OFT files."""

    name = "kohya"

    def version(self) -> str:
        """The checkout's."""
        assert self.folder is not None
        return folder_version(self.folder)

    def read(self, path: Path, multiplier: float) -> Changes:
        """See `Program.read`."""
        model, tensors = SmallModel(), load_file(path)
        oft = any("oft_blocks" in key for key in tensors)
        with stand_ins("cv2", "library", SdxlUNet2DConditionModel=type("Other", (), {})):
            networks = importlib.import_module("networks.oft" if oft else "networks.lora")
        if oft:  # kohya's own SDXL U-Net is not here, so its module is put on each layer that a key names
            for layer_id, _, module in model.layers():
                key = (
                    f"oft_unet_{layer_name_table('unet').ldm_name(layer_id, 'SD1')}" if layer_id.part == "unet" else ""
                )
                own = {
                    k.partition(".")[2]: t for k, t in tensors.items() if k.partition(".")[0] == key.replace(".", "_")
                }
                if own:
                    dim, alpha = len(own["oft_blocks"]), float(own["alpha"])
                    layer = networks.OFTInfModule(key, module, multiplier, dim=dim, alpha=alpha)
                    layer.load_state_dict(own)
                    layer.merge_to(multiplier)
        else:
            network, tensors = networks.create_network_from_weights(
                multiplier, str(path), None, model.text_encoder, model.unet, for_inference=True
            )
            network.merge_to(model.text_encoder, model.unet, tensors, torch.float32, "cpu")
        after = model.weights()
        return {
            layer_id: after[layer_id] - w for layer_id, w in self.base.items() if not torch.equal(after[layer_id], w)
        }


class WebUI(Program):
    """AUTOMATIC1111's built-in Lora: `load_network` and each module's `calc_updown`."""

    name = "A1111"

    def version(self) -> str:
        """The checkout's."""
        assert self.folder is not None
        return folder_version(self.folder)

    def _networks(self) -> types.ModuleType:
        assert self.folder is not None
        if "networks" in sys.modules and hasattr(sys.modules["networks"], "load_network"):
            return sys.modules["networks"]
        kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "networks"}
        sys.path.insert(0, str(self.folder / "extensions-builtin" / "Lora"))
        try:
            with stand_ins("modules", "gradio", "lora_patches", "lora_logger", QkvLinear=type("QkvLinear", (), {})):
                networks = importlib.import_module("networks")
        finally:
            sys.path.pop(0)
            del sys.modules["networks"]
            sys.modules.update(kept)
        cpu = types.SimpleNamespace(cpu=torch.device("cpu"), device=torch.device("cpu"), dtype=torch.float32)
        networks.devices = sys.modules["network_lora"].devices = cpu
        networks.sd_models = types.SimpleNamespace(read_state_dict=load_file)
        self.module = networks
        return networks

    def read(self, path: Path, multiplier: float) -> Changes:
        """See `Program.read`."""
        networks = getattr(self, "module", None) or self._networks()
        names = {}
        for layer_id, name, module in self.model.layers():
            dotted = f"diffusion_model.{layer_name_table('unet').ldm_name(layer_id, 'SD1')}" if (
                layer_id.part == "unet") else f"transformer.{name}"  # fmt: skip
            names[dotted.replace(".", "_")] = (layer_id, module)
            module.network_layer_name = dotted.replace(".", "_")
        mapping = {name: module for name, (_, module) in names.items()}
        networks.shared = types.SimpleNamespace(sd_model=types.SimpleNamespace(network_layer_mapping=mapping))
        loaded = networks.load_network(path.stem, types.SimpleNamespace(filename=str(path), name=path.stem))
        loaded.te_multiplier = loaded.unet_multiplier = multiplier
        with torch.no_grad():
            return {
                names[name][0]: module.calc_updown(names[name][1].weight)[0].reshape(names[name][1].weight.shape)
                for name, module in loaded.modules.items()
            }


class Patches(Program):
    """Programs that map keys to weights and keep patches: ComfyUI and Forge."""

    def load(self) -> tuple[types.ModuleType, Callable[[list[tuple[object, ...]], Tensor, str], Tensor]]:
        """(the module with `model_lora_keys_…` and `load_lora`, the function that applies patches to a weight)."""
        raise NotImplementedError

    def converted(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under the keys that `load_lora` gets."""
        return tensors

    def read(self, path: Path, multiplier: float) -> Changes:
        """See `Program.read`."""
        keys, apply = self.load()
        names = {}
        for layer_id, name, _ in self.model.layers():
            unet = layer_id.part == "unet"
            dotted = layer_name_table("unet").ldm_name(layer_id, "SD1") if unet else f"clip_l.transformer.{name}"
            names[f"diffusion_model.{dotted}.weight" if unet else f"{dotted}.weight"] = layer_id
        config = {
            "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4], "transformer_depth": [1] * 6 + [0] * 2,
            "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1,
        }  # fmt: skip
        model = MagicMock()
        model.state_dict = lambda: dict.fromkeys(names)
        model.model_config.unet_config = model.diffusion_model.config = config
        key_map: dict[str, str] = {}
        for function in (keys.model_lora_keys_clip, keys.model_lora_keys_unet):
            answer = function(model, key_map)
            key_map = answer[1] if isinstance(answer, tuple) else answer
        loaded = keys.load_lora(self.converted(load_file(path)), key_map)
        patches = loaded[0] if isinstance(loaded, tuple) else loaded
        found = {}
        for name, patch in patches.items():
            if name in names:
                weight = self.base[names[name]]
                after = apply([(multiplier, patch, 1.0, None, None)], weight.clone(), name)
                found[names[name]] = after - weight
        return found


class ComfyUI(Patches):
    """`comfy.lora`."""

    name = "ComfyUI"

    def version(self) -> str:
        """The version in the folder."""
        assert self.folder is not None
        text = (self.folder / "comfyui_version.py").read_text(encoding="utf-8")
        return text.rpartition('"')[0].rpartition('"')[2]

    def load(self) -> tuple[types.ModuleType, Callable[[list[tuple[object, ...]], Tensor, str], Tensor]]:
        """See `Patches.load`."""
        assert self.folder is not None
        sys.path.insert(0, str(self.folder))
        text = (self.folder / "comfy" / "lora.py").read_text(encoding="utf-8")
        classes = {name: type(name, (), {}) for name in re.findall(r"comfy\.model_base\.(\w+)", text)}
        with stand_ins("comfy.model_management", "comfy.model_base", cast_to_device=_cast, **classes):
            lora = importlib.import_module("comfy.lora")
            importlib.import_module("comfy.lora_convert")
        sys.path.pop(0)
        return lora, lora.calculate_weight

    def converted(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Patches.converted`."""
        return importlib.import_module("comfy.lora_convert").convert_lora(tensors)


class Forge(Patches):
    """`backend.patcher.lora`, whose code of the formats is a copy of ComfyUI's."""

    name = "Forge"

    def version(self) -> str:
        """The checkout's."""
        assert self.folder is not None
        return folder_version(self.folder)

    def load(self) -> tuple[types.ModuleType, Callable[[list[tuple[object, ...]], Tensor, str], Tensor]]:
        """See `Patches.load`."""
        assert self.folder is not None
        sys.path.insert(0, str(self.folder))
        with stand_ins("backend.memory_management", "backend.utils", "backend.operations", cast_to_device=_cast):
            backend = types.ModuleType("backend")
            backend.__path__ = [str(self.folder / "backend")]
            sys.modules["backend"] = backend
            patcher = importlib.import_module("backend.patcher.lora")
            keys = importlib.import_module("packages_3rdparty.comfyui_lora_collection.lora")
        sys.path.pop(0)
        return keys, patcher.merge_lora_to_weight


def _cast(tensor: Tensor, device: torch.device, dtype: torch.dtype, copy: bool = False) -> Tensor:
    return tensor.to(device, dtype, copy=copy)


PROGRAMS: Mapping[str, type[Program]] = {
    kind.name: kind for kind in (Diffusers, Peft, Kohya, LyCORIS, ComfyUI, WebUI, Forge)
}
"""Column → program, in the order of the table."""
PACKAGES = {"diffusers": "diffusers", "PEFT": "peft", "LyCORIS": "lycoris-lora"}
"""Program → the package that it is; the others are folders."""
