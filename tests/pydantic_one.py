"""A pytest plugin (`-p pydantic_one`): pydantic is its own version 1, as in the web UI, which pins it."""

import importlib
import pkgutil
import sys

import pydantic.v1

for part in pkgutil.walk_packages(pydantic.v1.__path__, "pydantic.v1."):
    if part.name.rpartition(".")[2] not in ("mypy", "_hypothesis_plugin"):
        importlib.import_module(part.name)
for name in [name for name in sys.modules if name.split(".")[0] == "pydantic" and "v1" not in name.split(".")]:
    del sys.modules[name]
for name, module in list(sys.modules.items()):
    if name.startswith("pydantic.v1"):
        sys.modules["pydantic" + name.removeprefix("pydantic.v1")] = module
