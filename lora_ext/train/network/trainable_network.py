"""`Network`: trainable LierLa, C3Lier and DyLoRA modules on a live model, by site; it hooks in and out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ...adapters.lora import Lora
from ...blocks import SD, SDXL, Family
from ...errors import TrainError
from ...file.lora_file import LoraFile
from ...inject import Target, targets
from ...layer_names import UNET, Site, kohya_key
from ..config.block_settings import Size, Sizes, part_name
from ..config.dylora import share, whole
from ..config.recipe import Recipe
from ..config.recipe_metadata import network_metadata
from .multihead_attention import hook_attention
from .trainable_factors import Factors, refresh
from .weight_norms import Norms, limit_norms, norms


class Network(nn.Module):
    """The modules that a recipe asks for on a model's `parts` (part → network).

    Nothing acts before `attach()`. In training, `begin_step` draws what DyLoRA and the dropouts need; in `eval()` all
    ranks act and nothing is dropped. `sites` tells where the modules are. Raises TrainError where no layer fits.
    file: a LoRA to go on from; its ranks and alphas are taken where the recipe says `dim_from_weights`. `left_out`:
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
        found = {site: target for part, root in parts.items() for site, target in targets(part, root).items()}
        self.family = family_of(found)
        self.sizes = Sizes(recipe, self.family)
        self.targets: dict[Site, Target] = {}
        self.sites: dict[Site, Factors] = {}
        unit = recipe.unit if recipe.is_dylora else None
        for site, target in found.items():
            size = self._size(site, target, file)
            if size is not None and _plain(target.module):
                factors = Factors(tuple(target.shape), size, unit, generator)
                factors.dropout, factors.rank_dropout = recipe.network_dropout or 0.0, recipe.rank_dropout or 0.0
                self.targets[site], self.sites[site] = target, factors.to(_device(target.module))
        if not self.sites:
            raise TrainError(
                "no layer of this model is trained by this recipe; check network_train_unet_only, "
                "network_train_text_encoder_only and the block weights"
            )
        self.factors = nn.ModuleDict({self.key(site): factors for site, factors in self.sites.items()})
        self.handles: list[RemovableHandle] = []
        self.left_out = self.load(file) if file is not None else []

    def _size(self, site: Site, target: Target, file: LoraFile | None) -> Size | None:
        size = self.sizes.of(site, tuple(target.shape))
        if size is None or file is None or not self.recipe.dim_from_weights:
            return size
        adapter = file.adapters.get(site)
        return Size(adapter.rank, adapter.scaling() * adapter.rank) if adapter is not None and adapter.rank else None

    def key(self, site: Site) -> str:
        """A site's name as kohya's scripts write it."""
        return kohya_key(site, sdxl=self.family is SDXL)

    # --- on and off

    def attach(self) -> Network:
        """Hooks the modules in; once, however often it is called."""
        if not self.handles:
            stacked: dict[nn.Module, list[tuple[Target, Factors]]] = {}
            for site, factors in self.sites.items():
                target = self.targets[site]
                if isinstance(target.module, nn.MultiheadAttention):
                    stacked.setdefault(target.module, []).append((target, factors))
                else:
                    self.handles.append(target.module.register_forward_pre_hook(factors.enter))
                    self.handles.append(target.module.register_forward_hook(factors.hook))
            for module, rows in stacked.items():
                self.handles += hook_attention(module, rows)
        return self

    def detach(self) -> Network:
        """Takes all hooks off: the model is as it was."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        return self

    @contextmanager
    def resting(self) -> Iterator[None]:
        """The model as it is without the network, for a while."""
        attached = bool(self.handles)
        self.detach()
        try:
            yield
        finally:
            if attached:
                self.attach()

    def __enter__(self) -> Network:
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
        recipe, modules = self.recipe, list(self.sites.values())
        for module in modules:
            module.gather()
        if recipe.is_dylora:
            units = max(-(-m.rank // recipe.unit) for m in modules)
            draws = torch.randint(units, (1,), generator=generator).tolist() * len(modules)
            if recipe.dylora_draw == "module":
                draws = [
                    int(x * -(-m.rank // recipe.unit))
                    for x, m in zip(torch.rand(len(modules), generator=generator).tolist(), modules, strict=True)
                ]
            for module, drawn in zip(modules, draws, strict=True):
                module.act(share(recipe, (drawn + 1) * recipe.unit, module.rank, module.alpha))
        if recipe.module_dropout:
            for module, x in zip(modules, torch.rand(len(modules), generator=generator).tolist(), strict=True):
                module.skipped = x < recipe.module_dropout
        if recipe.network_dropout or recipe.rank_dropout:
            seeds = torch.randint(2**40, (len(modules),), generator=generator).tolist()
            for module, seed in zip(modules, seeds, strict=True):
                module.seed = seed + process
        refresh(modules)

    def train(self, mode: bool = True) -> Network:
        """As nn.Module's; outside training all ranks act. A new step is to be begun after it."""
        super().train(mode)
        for module in getattr(self, "sites", {}).values():
            module.act(whole(module.rank, module.alpha))
            module.skipped, module.seed, module.casts = False, None, None
        return self

    def multiply(self, multiplier: float) -> None:
        """The weight at which the modules act; 1 at first."""
        for module in self.sites.values():
            module.multiplier = multiplier

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for an optimizer: `params`, `lr` (the part's rate times the block's weight) and `name`."""
        groups: dict[str, dict[str, Any]] = {}
        for site, module in self.sites.items():
            weight = self.sizes.rate(site)
            name = part_name(site) + (f" {site.block}" if weight != 1 else "")
            group = groups.setdefault(name, {"params": [], "lr": self.recipe.rate(site.part) * weight, "name": name})
            group["params"] += module.parameters()
        return list(groups.values())

    # --- norms

    def norms(self) -> torch.Tensor:
        """‖ΔW‖ of every module at weight 1, (modules,)."""
        return norms(list(self.sites.values()))

    def max_norm(self, limit: float) -> Norms:
        """Shrinks every ΔW that is longer than `limit` to it (kohya's `scale_weight_norms`)."""
        return limit_norms(list(self.sites.values()), limit)

    # --- files

    def file(self) -> LoraFile:
        """What has been learned, in kohya's dialect, float32, with the network's part of the metadata."""
        adapters = {site: Lora(module.low_rank().stored(module.alpha)) for site, module in self.sites.items()}
        return LoraFile(adapters=adapters, metadata=self.metadata())

    def metadata(self) -> dict[str, str]:
        """`ss_network_*`, as `network_metadata` gives them."""
        return network_metadata(self.recipe)

    def load(self, file: LoraFile) -> list[Site]:
        """Goes on from a file's ΔW; returns the sites it has and this network lacks. A smaller rank fills the first
        ranks. Raises TrainError: no common layer, a kind without factors, a rank above the module's."""
        common = [site for site in self.sites if site in file.adapters]
        if not common:
            raise TrainError(f"{file.path or file.name} has no layer that this recipe trains; it is for {file.family}")
        for site in common:
            low = file.adapters[site].low_rank()
            module, shape = self.sites[site], self.targets[site].shape
            if low is None or file.adapters[site].kind != "LoRA":
                raise TrainError(f"{file.name} has {file.adapters[site].kind} at {site}; only LoRA can be continued")
            if low.rank > module.rank:
                raise TrainError(
                    f"{file.name} has rank {low.rank} at {site}, the network {module.rank}; "
                    "set dim_from_weights, or give the file's rank as network_dim"
                )
            stored = low.reshaped(shape).stored(module.alpha / module.rank * low.rank)
            names = sorted(name for name in stored if name != "alpha")  # down before up
            down, up = (stored[name] for name in names)
            with torch.no_grad():
                module.up.zero_()
                module.down[: low.rank] = down.to(module.down)
                module.up[: low.rank] = up.flatten(1).t().to(module.up)
        return [site for site in file.adapters if site not in self.sites]


def family_of(sites: Mapping[Site, Target]) -> Family:
    """SDXL's U-Net ends at OUT08; with no U-Net, a second text encoder tells."""
    blocks = {site.block for site in sites if site.part == UNET}
    if blocks:
        return SD if "OUT11" in blocks else SDXL
    return SDXL if any(site.part == "te2" for site in sites) else SD


def _plain(module: nn.Module) -> bool:
    """Whether the layer is a kind that can be trained beside."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1
    return hasattr(module, "in_features") or isinstance(module, nn.MultiheadAttention)


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))
