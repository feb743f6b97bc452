"""Which extension applies `<lora:…>` tags, and this extension's entries in the web UI's extra networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from modules import errors, extensions, extra_networks

from ...lora_tags import TAG_NAMES
from .models import has_patch_manager
from .other_extensions import BLOCK_WEIGHT_EXTENSION, is_extension_enabled
from .tag_support import ignored_parts_message, parts_for_builtin, unknown_parts


class TagHandler(Protocol):
    """What `LoraExtraNetwork` calls for the tags of a prompt."""

    is_sampling: bool

    def apply_tags(self, p: Any, items: list[list[str]], params_list: Any = ()) -> None:
        """Applies tags, each given as its parts between the colons."""
        ...


class LoraExtraNetwork(extra_networks.ExtraNetwork):
    """What the web UI calls for the tags of a prompt."""

    def __init__(self, handler: TagHandler) -> None:
        super().__init__("lora")
        self.handler = handler

    def activate(self, p: Any, params_list: list[Any]) -> None:
        """Applies the prompt's tags; without tags all files are removed."""
        self.handler.apply_tags(p, _items(params_list), params_list)

    def deactivate(self, p: Any) -> None:
        """Called after an image. Files stay applied for the next one, as in the built-in extension."""
        self.handler.is_sampling = False


BUILTIN_EXTENSION = "the built-in Lora extension"
_ALIASES = TAG_NAMES[1:]


class TagOwnership:
    """The entries of `TAG_NAMES` in the web UI's tables of extra networks and aliases, and who had them before.

    Attributes:
        previous_owner: who had `<lora:…>` tags before; None for nobody.
    """

    def __init__(self, network: extra_networks.ExtraNetwork, observer: extra_networks.ExtraNetwork) -> None:
        self.network, self.observer = network, observer
        self.previous_owner: Any = None
        self._previous_aliases: dict[str, Any] = {}

    @property
    def is_ours(self) -> bool:
        """Whether this extension gets `<lora:…>` tags."""
        return self.owner is self.network

    @property
    def owner(self) -> Any:
        """The object that gets `<lora:…>` tags, None where there is none."""
        return extra_networks.extra_network_registry.get("lora")

    @property
    def is_handed_back(self) -> bool:
        """Whether the previous owner has the tags again although the setting did not change."""
        return self.previous_owner is not None and self.owner is self.previous_owner

    def register_observer(self) -> None:
        """Registers the observer, which is called for each image, whoever applies the tags. May be called again."""
        extra_networks.register_extra_network(self.observer)

    def register_network(self) -> None:
        """Registers this extension for `lora` and its aliases. May be called again."""
        networks, aliases = extra_networks.extra_network_registry, extra_networks.extra_network_aliases
        if not self.is_ours:
            self.previous_owner = networks.get("lora")
            self._previous_aliases = {name: aliases.get(name) for name in _ALIASES}
        extra_networks.register_extra_network(self.network)
        for name in _ALIASES:
            extra_networks.register_extra_network_alias(self.network, name)

    def restore_previous_owners(self) -> None:
        """Restores the previous owners."""
        networks, aliases = extra_networks.extra_network_registry, extra_networks.extra_network_aliases
        entries = [(networks, "lora", self.previous_owner)]
        entries += [(aliases, name, self._previous_aliases.get(name)) for name in _ALIASES]
        for table, name, before in entries:
            if table.get(name) is self.network:
                del table[name]
                if before is not None:
                    table[name] = before

    def close(self) -> None:
        """Restores the table as it was before the extension was loaded."""
        self.restore_previous_owners()
        table = extra_networks.extra_network_registry
        if table.get(self.observer.name) is self.observer:
            del table[self.observer.name]


class ImageObserver(extra_networks.ExtraNetwork):
    """Called by the web UI for each image, whoever applies `<lora:…>`."""

    def __init__(self, on_image: Callable[[Any], None]) -> None:
        super().__init__("lora_ext")
        self._on_image = on_image

    def activate(self, p: Any, params_list: Any) -> None:
        """Calls the callback; a `<lora_ext:…>` tag itself has no meaning."""
        self._on_image(p)

    def deactivate(self, p: Any) -> None:
        """Does nothing."""


def extension_name(network: Any) -> str:
    """Returns the name of the extension folder that an object of the web UI's table comes from."""
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
    """Returns a sentence for each tag with parts that have no effect, because `owner` applies it.

    The block-weight extension handles its own parts whoever applies the tags: where it is enabled there is no warning.
    """
    if is_extension_enabled(BLOCK_WEIGHT_EXTENSION):
        return []
    found = ((items, unknown_parts(items, _also_unknown())) for items in tags)
    return [ignored_parts_message(items, parts, extension_name(owner)) for items, parts in found if parts]


def tags_for_builtin(params_list: Sequence[Any]) -> list[Any]:
    """Returns tags (the web UI's `ExtraNetworkParams`) without the parts that make the built-in extension fail."""
    return [type(params)(items=parts_for_builtin(params.items, _also_unknown())) for params in params_list]


def _also_unknown() -> tuple[str, ...]:
    """Named parts that the built-in extensions of Forge and its kin do not act on either."""
    return ("dyn",) if has_patch_manager() else ()


def tag_items_of(p: Any) -> list[list[str]]:
    """Returns the parts of each LoRA tag of this pass (first or hires)."""
    data = getattr(p, "hr_extra_network_data" if getattr(p, "is_hr_pass", False) else "extra_network_data", None) or {}
    return _items(params for name in TAG_NAMES for params in data.get(name, ()))


def _items(params_list: Iterable[Any]) -> list[list[str]]:
    return [[str(item) for item in params.items] for params in params_list]


def run_all_steps(action: str, *steps: Callable[[], object]) -> None:
    """Runs every step. A failing one is reported on the console, and the next ones still run."""
    for step in steps:
        try:
            step()
        except Exception:
            errors.report(f"lora-ext: {action}", exc_info=True)
