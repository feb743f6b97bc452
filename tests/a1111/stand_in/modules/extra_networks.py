"""Tags of a prompt, and who gets them."""

import re
from collections import defaultdict

from modules import errors

extra_network_registry = {}
extra_network_aliases = {}


def initialize():
    extra_network_registry.clear()
    extra_network_aliases.clear()


def register_extra_network(extra_network):
    extra_network_registry[extra_network.name] = extra_network


def register_extra_network_alias(extra_network, alias):
    extra_network_aliases[alias] = extra_network


class ExtraNetworkParams:
    """Items of one tag. An item with one `=` is a named one; with more of them it is positional."""

    def __init__(self, items=None):
        self.items = items or []
        pairs = [item.split("=") for item in self.items]
        self.named = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
        self.positional = [item for item, pair in zip(self.items, pairs, strict=True) if len(pair) != 2]

    def __eq__(self, other):
        return self.items == other.items


class ExtraNetwork:
    def __init__(self, name):
        self.name = name

    def activate(self, p, params_list):
        raise NotImplementedError

    def deactivate(self, p):
        raise NotImplementedError


def _given(extra_network_data):
    found = {}
    for name, params in extra_network_data.items():
        network = extra_network_registry.get(name) or extra_network_aliases.get(name)
        if network is not None:
            found.setdefault(network, []).extend(params)
    return found


def _everyone(extra_network_data, call, *, always=False):
    """Those with tags first, then all others with none; who raises is told on the console and is called again with
    none (`always` False)."""
    given, done = _given(extra_network_data), []
    for network in given:
        try:
            call(network, given[network])
            done.append(network)
        except Exception:
            errors.report(f"extra network {network.name}", exc_info=True)
    for network in list(extra_network_registry.values()):
        if network not in (given if always else done):
            try:
                call(network, [])
            except Exception:
                errors.report(f"extra network {network.name}", exc_info=True)


def activate(p, extra_network_data):
    _everyone(extra_network_data, lambda network, params: network.activate(p, params))


def deactivate(p, extra_network_data):
    _everyone(extra_network_data, lambda network, _: network.deactivate(p), always=True)


def parse_prompts(prompts):
    """The prompts without tags, and the tags of the first."""
    found = [_parsed(prompt) for prompt in prompts]
    return [text for text, _ in found], found[0][1] if found else None


def _parsed(prompt):
    tags = defaultdict(list)

    def found(match):
        tags[match[1]].append(ExtraNetworkParams(match[2].split(":")))
        return ""

    return re.sub(r"<(\w+):([^>]+)>", found, prompt), tags
