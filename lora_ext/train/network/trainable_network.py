"""`TrainableNetwork`: the trained part of every layer of a model, attached and detached by hooks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ...blocks import SDXL_BLOCKS
from ...errors import TrainError
from ...file.lora_file import LoraFile
from ...inject import LayerTarget
from ...layer_keys import format_kohya_key
from ...layer_names import LayerId
from ..config.block_settings import ModuleRanks, RankAndAlpha, is_wider_than_1x1, parameter_group_name
from ..config.dylora import select_drawn_ranks
from ..config.layer_choice import number_for_layer
from ..config.recipe import Recipe
from ..config.recipe_metadata import network_metadata
from .first_factors import first_factors
from .layer_products import ScratchMemory
from .layer_targets import block_family_of_layers, count_by_sort, find_trainable_layers
from .multihead_attention import base_weight, hook_multihead_attention
from .new_adapters import NewLayer, new_tensors
from .trainable_adapter import TrainableAdapter
from .trainable_factors import TrainableFactors, cast_factors
from .trainable_layer import TrainableLayer
from .weight_norms import NormLimitReport, delta_norms, limit_delta_norms


class TrainableNetwork(nn.Module):
    """The modules that a recipe trains on a model.

    They have no effect before `attach()`. In training, `begin_step` draws what DyLoRA and the dropouts need; in
    `eval()` all ranks are used and nothing is dropped.

    Args:
        parts: "unet", "te" and "te2" → the model's networks.
        recipe: The settings.
        generator: The random numbers of the initial factors.
        file: A LoRA to continue from; with `dim_from_weights` its ranks and alphas are used.

    Attributes:
        family: The U-Net's blocks.
        module_ranks: Rank and alpha of each module.
        factors_by_layer: Layer → its trainable factors.
        targets_by_layer: Layer → where it is in the model.
        factors: The same factors by kohya's layer names, as saved states name them.
        untrained_layers: Layers that `file` has and this network does not train.

    Raises:
        TrainError: No layer of the model is trained, or the file does not fit (see `load_lora`).
        BlockError: A weight of a block's learning rate does not parse, or is negative.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        recipe: Recipe,
        *,
        generator: torch.Generator | None = None,
        file: LoraFile | None = None,
    ) -> None:
        super().__init__()
        self.recipe, self.scratch = recipe, ScratchMemory()
        found = find_trainable_layers(parts)
        self.family = block_family_of_layers(found)
        self.module_ranks = ModuleRanks(recipe, self.family)
        self.targets_by_layer: dict[LayerId, LayerTarget] = {}
        self.factors_by_layer: dict[LayerId, TrainableLayer] = {}
        for layer_id, target in found.items():
            size = self._rank_and_alpha(layer_id, target, file)
            if size is not None:
                layer = self._new_layer(layer_id, target, size, generator)
                layer.dropout, layer.rank_dropout = recipe.network_dropout or 0.0, recipe.rank_dropout or 0.0
                self.targets_by_layer[layer_id] = target
                self.factors_by_layer[layer_id] = layer.to(_device(parts[layer_id.part]))
        if not self.factors_by_layer:
            raise TrainError(
                "no layer of this model is trained by this recipe; check network_train_unet_only, "
                "network_train_text_encoder_only, network_targets, network_include, network_exclude and block weights"
            )
        self.factors = nn.ModuleDict(
            {self.layer_key(layer_id): factors for layer_id, factors in self.factors_by_layer.items()}
        )
        self.handles: list[RemovableHandle] = []
        self.untrained_layers = self.load_lora(file) if file is not None else []
        self.to(recipe.trained_dtype)

    def _new_layer(
        self, layer_id: LayerId, target: LayerTarget, size: RankAndAlpha, generator: torch.Generator | None
    ) -> TrainableLayer:
        """The trained part of a layer before the first step. Raises TrainError for a size that does not fit."""
        recipe, shape = self.recipe, tuple(target.shape)
        tucker = recipe.use_tucker and is_wider_than_1x1(shape)
        if recipe.algo == "lora" and not recipe.dora_wd and not tucker and len(shape) > 1:
            start = first_factors(base_weight(target), size, recipe.init_lora_weights)
            factors = TrainableFactors(shape, size, recipe.unit if recipe.is_dylora else None, generator, start)
            if recipe.freeze_down:  # LoRA-FA (arXiv 2308.03303), with the first D of kohya's `networks/lora_fa.py`
                factors.downs.requires_grad_(False)
                if start is None:
                    factors.down.normal_(std=(2 / (shape[1] + size.rank)) ** 0.5, generator=generator)
            return factors
        size = RankAndAlpha(size.rank, size.alpha or float(size.rank))  # 0 means the rank, as in kohya's scripts
        bias = getattr(target.module, "bias", None) is not None and not isinstance(target.module, nn.MultiheadAttention)
        new = new_tensors(NewLayer(layer_id, base_weight(target), bias, size, recipe, generator))
        return TrainableAdapter(new, size.alpha, lambda: base_weight(target), self.scratch)

    def _rank_and_alpha(self, layer_id: LayerId, target: LayerTarget, file: LoraFile | None) -> RankAndAlpha | None:
        size = self.module_ranks.for_layer(layer_id, tuple(target.shape))
        if size is None or file is None or not self.recipe.dim_from_weights:
            return size
        adapter = file.adapters.get(layer_id)
        if adapter is None or not adapter.rank:
            return None if adapter is None or adapter.kind == "LoRA" else size
        return RankAndAlpha(adapter.rank, adapter.scaling() * adapter.rank)

    def layer_key(self, layer_id: LayerId) -> str:
        """A layer's name as kohya's scripts write it.

        Args:
            layer_id: The layer.

        Returns:
            Such as "lora_unet_mid_block_attentions_0_proj_in".
        """
        return format_kohya_key(layer_id, sdxl=self.family is SDXL_BLOCKS)

    # --- attaching

    def attach(self) -> TrainableNetwork:
        """Registers the hooks; calling it again changes nothing."""
        if not self.handles:
            stacked: dict[nn.Module, list[tuple[LayerTarget, TrainableLayer]]] = {}
            for layer_id, factors in self.factors_by_layer.items():
                target = self.targets_by_layer[layer_id]
                if isinstance(target.module, nn.MultiheadAttention):
                    stacked.setdefault(target.module, []).append((target, factors))
                else:
                    self.handles.append(target.module.register_forward_pre_hook(factors.before_forward))
                    always = {"always_call": True} if isinstance(factors, TrainableAdapter) else {}
                    self.handles.append(target.module.register_forward_hook(factors.after_forward, **always))
            for module, rows in stacked.items():
                self.handles += hook_multihead_attention(module, rows)
        return self

    def detach(self) -> TrainableNetwork:
        """Removes all hooks, so that the model is as before.

        Returns:
            This network.
        """
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.scratch.release()
        return self

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Inside, the model runs without the network.

        Yields:
            Nothing.
        """
        attached = bool(self.handles)
        self.detach()
        try:
            yield
        finally:
            if attached:
                self.attach()

    def __enter__(self) -> TrainableNetwork:
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.detach()

    # --- steps

    def begin_step(self, generator: torch.Generator | None = None, *, process: int = 0) -> None:
        """Draws what one forward and backward pass needs: DyLoRA's prefix, skipped modules, seeds of dropouts.

        Args:
            generator: On the CPU and in the same state in every process, so that all draw the same ranks and modules.
            process: Makes the dropout masks of the processes differ.
        """
        if not self.training:
            return
        self.set_weight(1.0)
        recipe, modules = self.recipe, list(self.factors_by_layer.values())
        factors = [module for module in modules if isinstance(module, TrainableFactors)]
        for module in factors:
            module.restore_shared_memory()
        if recipe.is_dylora:
            units = max(-(-m.rank // recipe.unit) for m in factors)
            draws = torch.randint(units, (1,), generator=generator).tolist() * len(factors)
            if recipe.dylora_draw == "module":
                draws = [
                    int(x * -(-m.rank // recipe.unit))
                    for x, m in zip(torch.rand(len(factors), generator=generator).tolist(), factors, strict=True)
                ]
            for module, drawn in zip(factors, draws, strict=True):
                module.select_ranks(select_drawn_ranks(recipe, (drawn + 1) * recipe.unit, module.rank, module.alpha))
        if recipe.module_dropout:
            for layer, x in zip(modules, torch.rand(len(modules), generator=generator).tolist(), strict=True):
                layer.skipped = x < recipe.module_dropout
        if recipe.network_dropout or recipe.rank_dropout:
            seeds = torch.randint(2**40, (len(modules),), generator=generator).tolist()
            for layer, seed in zip(modules, seeds, strict=True):
                layer.seed = seed + process
        cast_factors(factors)

    def set_weight(self, weight: float) -> None:
        """Sets the weight of all modules until the next `begin_step`.

        Args:
            weight: Factor on every ΔW; a negative one subtracts it.
        """
        for module in self.factors_by_layer.values():
            module.step_weight = weight

    def train(self, mode: bool = True) -> TrainableNetwork:
        """As that of nn.Module; all ranks are used until the next `begin_step`.

        Args:
            mode: True for training, False for evaluation.

        Returns:
            This network.
        """
        super().train(mode)
        for module in getattr(self, "factors_by_layer", {}).values():
            module.reset_step()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer, one for each learning rate of a part.

        Returns:
            Groups of `params`, `lr` (the layer's rate times the block's weight; times LoRA+'s ratio for up factors) and
            `name`: the part, the block where it has a weight, the rate of `network_reg_lrs`, and "plus" or "fixed".
        """
        groups: dict[str, dict[str, Any]] = {}
        for layer_id, module in self.factors_by_layer.items():
            weight, ratio = self.module_ranks.rate_weight(layer_id), self.recipe.up_rate_ratio(layer_id.part)
            own = number_for_layer(layer_id, self.recipe.network_reg_lrs)
            name = parameter_group_name(layer_id) + (
                f" {self.module_ranks.rate_label(layer_id)}" if weight != 1 else ""
            )
            name += "" if own is None else f" rate {own:g}"
            rate = self.recipe.rate(layer_id.part) * weight if own is None else own
            ups = module.up_parameters() if ratio is not None else []
            raised = {id(p) for p in ups}
            fixed = [p for p in module.parameters() if not p.requires_grad]  # in the state, since it is drawn
            for key, lr, parameters in (
                (name, rate, [p for p in module.parameters() if id(p) not in raised and p.requires_grad]),
                (f"{name} plus", rate * (ratio or 1), ups),
                (f"{name} fixed", 0.0, fixed),
            ):
                if parameters:
                    group = groups.setdefault(key, {"params": [], "lr": lr, "name": key})
                    group["params"] += parameters
        return list(groups.values())

    # --- norms

    def delta_norms(self) -> torch.Tensor:
        """The norm of every module's ΔW.

        Returns:
            ‖ΔW‖ (Frobenius) at weight 1, (modules,) float32.
        """
        return delta_norms(list(self.factors_by_layer.values()))

    def limit_delta_norms(self, limit: float) -> NormLimitReport:
        """Scales every ΔW whose norm exceeds a limit down to it (kohya's `scale_weight_norms`).

        Args:
            limit: The largest norm.

        Returns:
            The norms afterwards.
        """
        return limit_delta_norms(list(self.factors_by_layer.values()), limit)

    # --- files

    def to_lora_file(self) -> LoraFile:
        """The trained tensors as a LoRA file.

        Returns:
            A file with kohya's keys, tensors in the recipe's `trained_dtype`, and the network's metadata.
        """
        adapters = {layer_id: module.to_adapter() for layer_id, module in self.factors_by_layer.items()}
        return LoraFile(adapters=adapters, metadata=self.metadata())

    def metadata(self) -> dict[str, str]:
        """The network's metadata.

        Returns:
            The `ss_network_*` entries of `network_metadata`, and how many layers of each sort are trained.
        """
        return network_metadata(self.recipe) | {"ss_trained_layers": json.dumps(count_by_sort(self.factors_by_layer))}

    def load_lora(self, file: LoraFile) -> list[LayerId]:
        """Continues from a file's ΔW; a smaller rank fills the first ranks.

        Args:
            file: The LoRA.

        Returns:
            Layers that the file has and this network does not train.

        Raises:
            TrainError: No layer in common, an adapter of another kind, or a rank or size that does not fit.
        """
        common = [layer_id for layer_id in self.factors_by_layer if layer_id in file.adapters]
        if not common:
            raise TrainError(f"{file.path or file.name} is for {file.family} and has no layer that this recipe trains")
        for layer_id in common:
            try:
                self.factors_by_layer[layer_id].load_adapter(
                    file.adapters[layer_id], self.targets_by_layer[layer_id].shape
                )
            except TrainError as error:
                raise TrainError(f"{file.name}, {layer_id}: {error}") from None
        return [layer_id for layer_id in file.adapters if layer_id not in self.factors_by_layer]


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))
