"""The web UI's built-in Lora extension: it stays loaded (cards, API), but must not act while we do."""

from __future__ import annotations

import sys
from typing import Any

import torch
from modules import extra_networks, shared

from . import a1111_model


def available() -> set[str]:
    """Names of the files that the built-in extension lists."""
    return set(getattr(_networks(), "available_networks", ()))


def add_default(p: Any, items: list[list[str]]) -> None:
    """The setting "Add network to prompt": as if its tag stood at the end of every prompt."""
    name = getattr(shared.opts, "sd_lora", "None")
    if name == "None" or name not in available() or any(item[0] == name for item in items):
        return
    weight = shared.opts.extra_networks_default_multiplier
    tag = f"<lora:{name}:{weight}>"
    if p.all_prompts is not None:
        p.all_prompts = [prompt if tag in prompt else prompt + tag for prompt in p.all_prompts]
    items.append([name, str(weight)])


@torch.no_grad()
def quiet() -> None:
    """Takes everything that the built-in extension has applied off the models, from its own copies.

    It would do so itself at each layer's next call, but by writing into what is the layer's weight then.
    """
    networks = _networks()
    if networks is None:
        return
    if networks.loaded_networks:
        networks.load_networks([])
    for sd_model in a1111_model.loaded():
        for module in sd_model.modules():
            if getattr(module, "network_current_names", ()):
                networks.network_apply_weights(module)
            if getattr(module, "network_weights_backup", None) is not None:
                networks.network_reset_cached_weight(module)


def busy() -> bool:
    """Whether someone has made the built-in extension apply files."""
    return bool(getattr(_networks(), "loaded_networks", ()))


def _networks() -> Any:
    """Its module, None where it is disabled."""
    module = sys.modules.get("networks")
    return module if hasattr(module, "network_apply_weights") else None


class Registry:
    """Our place in the web UI's table of extra networks, and who had it before."""

    def __init__(self, network: extra_networks.ExtraNetwork) -> None:
        self.network = network
        self.before: tuple[Any, Any] = (None, None)

    @property
    def ours(self) -> bool:
        """Whether `<lora:…>` comes to us."""
        return extra_networks.extra_network_registry.get("lora") is self.network

    def take(self) -> None:
        """Makes us the one for `lora` and for the alias `lyco`; safe to call again."""
        networks, aliases = extra_networks.extra_network_registry, extra_networks.extra_network_aliases
        if not self.ours:
            self.before = networks.get("lora"), aliases.get("lyco")
        extra_networks.register_extra_network(self.network)
        extra_networks.register_extra_network_alias(self.network, "lyco")

    def give_back(self) -> None:
        """Puts back who was there before."""
        networks, aliases = extra_networks.extra_network_registry, extra_networks.extra_network_aliases
        for table, name, before in ((networks, "lora", self.before[0]), (aliases, "lyco", self.before[1])):
            if table.get(name) is self.network:
                del table[name]
                if before is not None:
                    table[name] = before
