"""Who applies `<lora:…>` in the web UI at this moment, and our place in its table of extra networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from modules import errors, extensions, extra_networks

from .models import patched
from .tag_support import sentence, unknown_parts


class LoraHost(Protocol):
    """What is called for the tags of a prompt."""

    sampling: bool

    def activate(self, p: Any, items: list[list[str]], params_list: Any = ()) -> None:
        """Applies these tags, given as their items."""
        ...


class LoraNetwork(extra_networks.ExtraNetwork):
    """What the web UI calls for the tags of a prompt."""

    def __init__(self, host: LoraHost) -> None:
        super().__init__("lora")
        self.host = host

    def activate(self, p: Any, params_list: list[Any]) -> None:
        """Applies the prompt's tags; no tags means that everything is removed."""
        self.host.activate(p, _items(params_list), params_list)

    def deactivate(self, p: Any) -> None:
        """The picture is done. What is applied stays for the next one, as with the built-in."""
        self.host.sampling = False


BUILT_IN = "the built-in Lora extension"
_BLOCK_WEIGHT = "sd-webui-lora-block-weight"


class Registry:
    """Our place in the web UI's table of extra networks, and who had it before."""

    def __init__(self, network: extra_networks.ExtraNetwork, watch: extra_networks.ExtraNetwork) -> None:
        self.network, self.watch = network, watch
        self.before: tuple[Any, Any] = (None, None)

    @property
    def ours(self) -> bool:
        """Whether `<lora:…>` comes to us."""
        return self.owner is self.network

    @property
    def owner(self) -> Any:
        """The object that gets the tags, None where there is none."""
        return extra_networks.extra_network_registry.get("lora")

    @property
    def handed_back(self) -> bool:
        """Whether the one who had the tags before us has them again, without the setting having changed."""
        return self.before[0] is not None and self.owner is self.before[0]

    def look_on(self) -> None:
        """Registers `watch`, which is called at every picture whoever applies the tags; safe to call again."""
        extra_networks.register_extra_network(self.watch)

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

    def close(self) -> None:
        """Leaves the table as it was before us."""
        self.give_back()
        table = extra_networks.extra_network_registry
        if table.get(self.watch.name) is self.watch:
            del table[self.watch.name]


class Watch(extra_networks.ExtraNetwork):
    """Called by the web UI at every picture, whether `<lora:…>` is ours or not."""

    def __init__(self, look: Callable[[Any], None]) -> None:
        super().__init__("lora_ext")
        self._look = look

    def activate(self, p: Any, params_list: Any) -> None:
        """Tags of our own name mean nothing; being called is what counts."""
        self._look(p)

    def deactivate(self, p: Any) -> None:
        """Nothing."""


def name_of(network: Any) -> str:
    """The extension that an object of the web UI's table comes from, as its folder is called."""
    if network is None:
        return "no extension"
    try:
        file = Path(inspect.getfile(type(network))).resolve()
    except (TypeError, OSError):
        return type(network).__module__
    for extension in extensions.extensions:
        if file.is_relative_to(Path(extension.path).resolve()):
            return BUILT_IN if extension.is_builtin else str(extension.name)
    return type(network).__module__


def without_effect(tags: Sequence[Sequence[str]], owner: Any) -> list[str]:
    """One sentence for each tag of which something does not act, because `owner` applies it and not we.

    The block-weight extension acts on its own words beside whoever applies the tags: where it is on, nothing is told.
    """
    if any(e.enabled and e.name.lower() == _BLOCK_WEIGHT for e in extensions.extensions):
        return []
    also = ("dyn",) if patched() else ()
    found = ((items, unknown_parts(items, also)) for items in tags)
    return [sentence(items, parts, name_of(owner)) for items, parts in found if parts]


def tags_of(p: Any) -> list[list[str]]:
    """The items of the LoRA tags that this pass of a picture was given."""
    data = getattr(p, "hr_extra_network_data" if getattr(p, "is_hr_pass", False) else "extra_network_data", None) or {}
    return _items(params for name in ("lora", "lyco") for params in data.get(name, ()))


def _items(params_list: Iterable[Any]) -> list[list[str]]:
    return [[str(item) for item in params.items] for params in params_list]


def each(doing: str, *steps: Callable[[], object]) -> None:
    """Runs every step; one that fails is reported on the console and does not keep the next from running."""
    for step in steps:
        try:
            step()
        except Exception:
            errors.report(f"lora-ext: {doing}", exc_info=True)
