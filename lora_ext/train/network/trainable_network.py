"""`TrainableNetwork`: trainable LierLa, C3Lier and DyLoRA modules on a live model, by site; it hooks in and out
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ...adapters.lora import Lora
from ...blocks import SD_BLOCKS, SDXL_BLOCKS, UNetBlocks
from ...errors import TrainError
from ...file.lora_file import LoraFile
from ...inject import LayerTarget, find_layer_targets
from ...layer_keys import format_kohya_key
from ...layer_names import UNET, LayerId
from ..config.block_settings import ModuleRanks, RankAndAlpha, parameter_group_name
from ..config.dylora import select_all_ranks, select_drawn_ranks
from ..config.recipe import Recipe
from ..config.recipe_metadata import network_metadata
from .multihead_attention import hook_multihead_attention
from .trainable_factors import TrainableFactors, cast_factors
from .weight_norms import NormLimitReport, delta_norms, limit_delta_norms


class TrainableNetwork(nn.Module):
    """The modules that a recipe asks for on a model's `parts` (part → network).

    Nothing acts before `attach()`. In training, `begin_step` draws what DyLoRA and the dropouts need; in `eval()` all
    ranks act and nothing is dropped. `factors_by_layer` tells where the modules are. Raises TrainError where no layer
    fits.
    to_lora_file: a LoRA to go on from; its ranks and alphas are taken where the recipe says `dim_from_weights`.
    `untrained_layers`:
    where it has layers and this network has none.
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
        self.recipe = recipe
        found = {
            site: target for part, root in parts.items() for site, target in find_layer_targets(part, root).items()
        }
        self.family = block_family_of_layers(found)
        self.module_ranks = ModuleRanks(recipe, self.family)
        self.targets_by_layer: dict[LayerId, LayerTarget] = {}
        self.factors_by_layer: dict[LayerId, TrainableFactors] = {}
        unit = recipe.unit if recipe.is_dylora else None
        for site, target in found.items():
            size = self._rank_and_alpha(site, target, file)
            if size is not None and _is_supported(target.module):
                factors = TrainableFactors(tuple(target.shape), size, unit, generator)
                factors.dropout, factors.rank_dropout = recipe.network_dropout or 0.0, recipe.rank_dropout or 0.0
                self.targets_by_layer[site], self.factors_by_layer[site] = target, factors.to(_device(target.module))
        if not self.factors_by_layer:
            raise TrainError(
                "no layer of this model is trained by this recipe; check network_train_unet_only, "
                "network_train_text_encoder_only and the block weights"
            )
        self.factors = nn.ModuleDict({self.layer_key(site): factors for site, factors in self.factors_by_layer.items()})
        self.handles: list[RemovableHandle] = []
        self.untrained_layers = self.load_lora(file) if file is not None else []

    def _rank_and_alpha(self, layer_id: LayerId, target: LayerTarget, file: LoraFile | None) -> RankAndAlpha | None:
        size = self.module_ranks.for_layer(layer_id, tuple(target.shape))
        if size is None or file is None or not self.recipe.dim_from_weights:
            return size
        adapter = file.adapters.get(layer_id)
        return (
            RankAndAlpha(adapter.rank, adapter.scaling() * adapter.rank)
            if adapter is not None and adapter.rank
            else None
        )

    def layer_key(self, layer_id: LayerId) -> str:
        """A site's name as kohya's scripts write it."""
        return format_kohya_key(layer_id, sdxl=self.family is SDXL_BLOCKS)

    # --- on and off

    def attach(self) -> TrainableNetwork:
        """Hooks the modules in; once, however often it is called."""
        if not self.handles:
            stacked: dict[nn.Module, list[tuple[LayerTarget, TrainableFactors]]] = {}
            for site, factors in self.factors_by_layer.items():
                target = self.targets_by_layer[site]
                if isinstance(target.module, nn.MultiheadAttention):
                    stacked.setdefault(target.module, []).append((target, factors))
                else:
                    self.handles.append(target.module.register_forward_pre_hook(factors.before_forward))
                    self.handles.append(target.module.register_forward_hook(factors.after_forward))
            for module, rows in stacked.items():
                self.handles += hook_multihead_attention(module, rows)
        return self

    def detach(self) -> TrainableNetwork:
        """Takes all hooks off: the model is as it was."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        return self

    @contextmanager
    def detached(self) -> Iterator[None]:
        """The model as it is without the network, for a while."""
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
        """Draws for one forward and backward pass: DyLoRA's prefix, skipped modules, the seeds of dropouts.

        generator: on the CPU, in the same state in every process, so that all draw the same ranks and modules;
        `process` only makes their dropout masks differ.
        """
        if not self.training:
            return
        recipe, modules = self.recipe, list(self.factors_by_layer.values())
        for module in modules:
            module.restore_shared_memory()
        if recipe.is_dylora:
            units = max(-(-m.rank // recipe.unit) for m in modules)
            draws = torch.randint(units, (1,), generator=generator).tolist() * len(modules)
            if recipe.dylora_draw == "module":
                draws = [
                    int(x * -(-m.rank // recipe.unit))
                    for x, m in zip(torch.rand(len(modules), generator=generator).tolist(), modules, strict=True)
                ]
            for module, drawn in zip(modules, draws, strict=True):
                module.select_ranks(select_drawn_ranks(recipe, (drawn + 1) * recipe.unit, module.rank, module.alpha))
        if recipe.module_dropout:
            for module, x in zip(modules, torch.rand(len(modules), generator=generator).tolist(), strict=True):
                module.skipped = x < recipe.module_dropout
        if recipe.network_dropout or recipe.rank_dropout:
            seeds = torch.randint(2**40, (len(modules),), generator=generator).tolist()
            for module, seed in zip(modules, seeds, strict=True):
                module.seed = seed + process
        cast_factors(modules)

    def train(self, mode: bool = True) -> TrainableNetwork:
        """As nn.Module's; outside training all ranks act. A new step is to be begun after it."""
        super().train(mode)
        for module in getattr(self, "factors_by_layer", {}).values():
            module.select_ranks(select_all_ranks(module.rank, module.alpha))
            module.skipped, module.seed, module.casts = False, None, None
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for an optimizer: `params`, `lr` (the part's rate times the block's weight) and `name`."""
        groups: dict[str, dict[str, Any]] = {}
        for site, module in self.factors_by_layer.items():
            weight = self.module_ranks.rate_weight(site)
            name = parameter_group_name(site) + (f" {site.block}" if weight != 1 else "")
            group = groups.setdefault(name, {"params": [], "lr": self.recipe.rate(site.part) * weight, "name": name})
            group["params"] += module.parameters()
        return list(groups.values())

    # --- norms

    def delta_norms(self) -> torch.Tensor:
        """‖ΔW‖ of every module at weight 1, (modules,)."""
        return delta_norms(list(self.factors_by_layer.values()))

    def limit_delta_norms(self, limit: float) -> NormLimitReport:
        """Shrinks every ΔW that is longer than `limit` to it (kohya's `scale_weight_norms`)."""
        return limit_delta_norms(list(self.factors_by_layer.values()), limit)

    # --- files

    def to_lora_file(self) -> LoraFile:
        """What has been learned, in kohya's dialect, float32, with the network's part of the metadata."""
        adapters = {
            site: Lora(module.low_rank().to_tensors(module.alpha)) for site, module in self.factors_by_layer.items()
        }
        return LoraFile(adapters=adapters, metadata=self.metadata())

    def metadata(self) -> dict[str, str]:
        """`ss_network_*`, as `network_metadata` gives them."""
        return network_metadata(self.recipe)

    def load_lora(self, file: LoraFile) -> list[LayerId]:
        """Goes on from a file's ΔW; returns the sites it has and this network lacks. A smaller rank fills the first
        ranks. Raises TrainError: no common layer, a kind without factors, a rank above the module's."""
        common = [site for site in self.factors_by_layer if site in file.adapters]
        if not common:
            raise TrainError(f"{file.path or file.name} has no layer that this recipe trains; it is for {file.family}")
        for site in common:
            low = file.adapters[site].low_rank()
            module, shape = self.factors_by_layer[site], self.targets_by_layer[site].shape
            if low is None or file.adapters[site].kind != "LoRA":
                raise TrainError(f"{file.name} has {file.adapters[site].kind} at {site}; only LoRA can be continued")
            if low.rank > module.rank:
                raise TrainError(
                    f"{file.name} has rank {low.rank} at {site}, the network {module.rank}; "
                    "set dim_from_weights, or give the file's rank as network_dim"
                )
            stored = low.reshaped(shape).to_tensors(module.alpha / module.rank * low.rank)
            names = sorted(name for name in stored if name != "alpha")  # down before up
            down, up = (stored[name] for name in names)
            with torch.no_grad():
                module.up.zero_()
                module.down[: low.rank] = down.to(module.down)
                module.up[: low.rank] = up.flatten(1).t().to(module.up)
        return [site for site in file.adapters if site not in self.factors_by_layer]


def block_family_of_layers(layer_ids: Mapping[LayerId, LayerTarget]) -> UNetBlocks:
    """SDXL's U-Net ends at OUT08; with no U-Net, a second text encoder tells."""
    blocks = {site.block for site in layer_ids if site.part == UNET}
    if blocks:
        return SD_BLOCKS if "OUT11" in blocks else SDXL_BLOCKS
    return SDXL_BLOCKS if any(site.part == "te2" for site in layer_ids) else SD_BLOCKS


def _is_supported(module: nn.Module) -> bool:
    """Whether the layer is a kind that can be trained beside."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1
    return hasattr(module, "in_features") or isinstance(module, nn.MultiheadAttention)


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))
