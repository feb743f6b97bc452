"""Inside the web UI the package has another name: extensions share one `sys.modules`, and another one has a module
`lora_ext` of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = """
import sys, types
modules = types.ModuleType("modules")
modules.script_callbacks = None
sys.modules["modules"] = modules
theirs = sys.modules["lora_ext"] = types.ModuleType("lora_ext")

import importlib, importlib.util, pkgutil
from pathlib import Path

import pytest
source = Path("scripts/lora_ext_entry.py")
code = source.read_text(encoding="utf-8").partition("\\nif is_supported():\\n")[0]
entry = {"__file__": str(source.resolve())}
exec(compile(code, str(source), "exec"), entry)
entry["load"]()
package = sys.modules[entry["PACKAGE"]]
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if "a1111" not in found.name and not found.name.endswith("__main__"):
        importlib.import_module(found.name)
assert package.apply.__module__ == package.__name__ + ".api", package.apply.__module__
assert sys.modules["lora_ext"] is theirs
assert not [name for name in sys.modules if name.startswith("lora_ext.")]
assert not [path for path in sys.path if Path(path or ".").resolve() == source.resolve().parent.parent], sys.path
"""


@pytest.mark.long
def test_another_module_of_that_name_stays() -> None:
    """`lora_ext` of another extension is untouched, whatever of ours is imported, and nothing of ours has that name."""
    done = subprocess.run([sys.executable, "-I", "-c", STAND_IN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
