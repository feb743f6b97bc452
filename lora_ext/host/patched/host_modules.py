"""Finds the modules of a web UI that an object's classes come from, without naming any web UI."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any


def modules_around(value: Any, *names: str) -> Iterator[ModuleType]:
    """Yields the loaded modules that define the classes of an object, and the modules called `names` around them.

    Around a module are those in its package, in the package above, and in the packages that it imports.

    Args:
        value: any object.
        names: last names of modules, such as "lora".
    """
    for home in dict.fromkeys(kind.__module__ for kind in type(value).__mro__ if kind is not object):
        module = sys.modules.get(home)
        if module is None:
            continue
        yield module
        package = home.rpartition(".")[0]
        packages = [package, package.rpartition(".")[0]]
        packages += [other.__name__ for other in vars(module).values() if isinstance(other, ModuleType)]
        for around in dict.fromkeys(packages):
            for name in names:
                found = sys.modules.get(f"{around}.{name}" if around else name)
                if found is not None:
                    yield found
