"""In a web UI with another structure (SD.Next), the extension says that it does nothing, and does nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ENTRY = Path(__file__).parents[1] / "scripts" / "lora_ext_entry.py"
START = f"""
import importlib.util, sys
from modules import script_callbacks
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("lora_ext_entry.py", {str(ENTRY)!r})
entry = importlib.util.module_from_spec(spec)
spec.loader.exec_module(entry)
print("imported", sorted(name for name in set(sys.modules) - before if "lora" in name or name == "torch"))
print("registered", script_callbacks.registered)
"""
CALLBACKS = """
registered = []

def __getattr__(name):
    if name.startswith("on_"):
        return registered.append
    raise AttributeError(name)
"""
"""Any callback can be registered, as there."""


def test_sdnext(tmp_path: Path) -> None:
    """Its `modules` has `lora`, a `textual_inversion` that is a file, and no `lowvram` or `sd_schedulers`."""
    modules = tmp_path / "modules"
    (modules / "lora").mkdir(parents=True)
    for name in ("__init__", "lora/__init__", "lora/networks", "textual_inversion", "shared", "call_queue", "errors"):
        (modules / f"{name}.py").touch()
    (modules / "script_callbacks.py").write_text(CALLBACKS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "this web UI (SD.Next) is not supported" in lines[0] and not done.stderr
    assert lines[1:] == ["imported []", "registered []"]


def test_a_module_lora_of_another_folder_is_no_sdnext(tmp_path: Path) -> None:
    """reForge and Forge Classic: `modules` has no `__init__`, and `ldm_patched` with a `modules` is on the path too."""
    for name in ("modules/script_callbacks", "ldm_patched/modules/lora"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.py").touch()
    code = ENTRY.read_text(encoding="utf-8").partition("\nif is_supported():\n")[0]
    script = f"import sys\nsys.path.append('ldm_patched')\n{code}\nprint(is_supported())"
    script = script.replace("__file__)", f"{str(ENTRY)!r})", 1)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stderr
