"""Who applies `<lora:…>` in the web UI at this moment, and our place in its table of extra networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from modules import errors, extensions, extra_networks

from .models import has_patch_manager
from .tag_support import ignored_parts_message, unknown_parts


class TagHandler(Protocol):
    """What is called for the tags of a prompt."""

    is_sampling: bool

    def apply_tags(self, p: Any, items: list[list[str]], params_list: Any = ()) -> None:
        """Applies these tags, given as their items."""
        ...


class LoraExtraNetwork(extra_networks.ExtraNetwork):
    """What the web UI calls for the tags of a prompt."""

    def __init__(self, handler: TagHandler) -> None:
        super().__init__("lora")
        self.handler = handler

    def activate(self, p: Any, params_list: list[Any]) -> None:
        """Applies the prompt's tags; no tags means that everything is removed."""
        self.handler.apply_tags(p, _items(params_list), params_list)

    def deactivate(self, p: Any) -> None:
        """The picture is done. What is applied stays for the next one, as with the built-in."""
        self.handler.is_sampling = False


BUILTIN_EXTENSION = "the built-in Lora extension"
_BLOCK_WEIGHT_EXTENSION = "sd-webui-lora-block-weight"


class TagOwnership:
    """Our place in the web UI's table of extra networks, and who had it before."""

    def __init__(self, network: extra_networks.ExtraNetwork, observer: extra_networks.ExtraNetwork) -> None:
        self.network, self.observer = network, observer
        self.previous_owners: tuple[Any, Any] = (None, None)

    @property
    def is_ours(self) -> bool:
        """Whether `<lora:…>` comes to us."""
        return self.owner is self.network

    @property
    def owner(self) -> Any:
        """The object that gets the tags, None where there is none."""
        return extra_networks.extra_network_registry.get("lora")

    @property
    def is_handed_back(self) -> bool:
        """Whether the one who had the tags before us has them again, without the setting having changed."""
        return self.previous_owners[0] is not None and self.owner is self.previous_owners[0]

    def register_observer(self) -> None:
        """Registers `watch`, which is called at every picture whoever applies the tags; safe to call again."""
        extra_networks.register_extra_network(self.observer)

    def register_network(self) -> None:
        """Makes us the one for `lora` and for the alias `lyco`; safe to call again."""
        networks, aliases = extra_networks.extra_network_registry, extra_networks.extra_network_aliases
        if not self.is_ours:
            self.previous_owners = networks.get("lora"), aliases.get("lyco")
        extra_networks.register_extra_network(self.network)
        extra_networks.register_extra_network_alias(self.network, "lyco")

    def restore_previous_owners(self) -> None:
        """Puts back who was there before."""
        networks, aliases = extra_networks.extra_network_registry, extra_networks.extra_network_aliases
        for table, name, before in (
            (networks, "lora", self.previous_owners[0]),
            (aliases, "lyco", self.previous_owners[1]),
        ):
            if table.get(name) is self.network:
                del table[name]
                if before is not None:
                    table[name] = before

    def close(self) -> None:
        """Leaves the table as it was before us."""
        self.restore_previous_owners()
        table = extra_networks.extra_network_registry
        if table.get(self.observer.name) is self.observer:
            del table[self.observer.name]


class ImageObserver(extra_networks.ExtraNetwork):
    """Called by the web UI at every picture, whether `<lora:…>` is ours or not."""

    def __init__(self, on_image: Callable[[Any], None]) -> None:
        super().__init__("lora_ext")
        self._on_image = on_image

    def activate(self, p: Any, params_list: Any) -> None:
        """Tags of our own name mean nothing; being called is what counts."""
        self._on_image(p)

    def deactivate(self, p: Any) -> None:
        """Nothing."""


def extension_name(network: Any) -> str:
    """The extension that an object of the web UI's table comes from, as its folder is called."""
    if network is None:
        return "no extension"
    try:
        file = Path(inspect.getfile(type(network))).resolve()
    except (TypeError, OSError):
        return type(network).__module__
    for extension in extensions.extensions:
        if file.is_relative_to(Path(extension.path).resolve()):
            return BUILTIN_EXTENSION if extension.is_builtin else str(extension.name)
    return type(network).__module__


def ignored_tag_messages(tags: Sequence[Sequence[str]], owner: Any) -> list[str]:
    """One sentence for each tag of which something does not act, because `owner` applies it and not we.

    The block-weight extension acts on its own words beside whoever applies the tags: where it is on, nothing is told.
    """
    if any(e.enabled and e.name.lower() == _BLOCK_WEIGHT_EXTENSION for e in extensions.extensions):
        return []
    also = ("dyn",) if has_patch_manager() else ()
    found = ((items, unknown_parts(items, also)) for items in tags)
    return [ignored_parts_message(items, parts, extension_name(owner)) for items, parts in found if parts]


def tag_items_of(p: Any) -> list[list[str]]:
    """The items of the LoRA tags that this pass of a picture was given."""
    data = getattr(p, "hr_extra_network_data" if getattr(p, "is_hr_pass", False) else "extra_network_data", None) or {}
    return _items(params for name in ("lora", "lyco") for params in data.get(name, ()))


def _items(params_list: Iterable[Any]) -> list[list[str]]:
    return [[str(item) for item in params.items] for params in params_list]


def run_all_steps(action: str, *steps: Callable[[], object]) -> None:
    """Runs every step; one that fails is reported on the console and does not keep the next from running."""
    for step in steps:
        try:
            step()
        except Exception:
            errors.report(f"lora-ext: {action}", exc_info=True)
