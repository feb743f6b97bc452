"""The laws of patched models on the patcher classes of real web UIs, which are imported and not started.

LORA_EXT_FORGE, LORA_EXT_REFORGE, LORA_EXT_CLASSIC, LORA_EXT_NEO: their folders. LORA_EXT_PATCHERS_PYTHON: a Python with
what their patchers import; by default the one in LORA_EXT_FORGE.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from server import ROOT, python_of

WEB_UIS = ("FORGE", "REFORGE", "CLASSIC", "NEO")


@pytest.mark.parametrize("web_ui", WEB_UIS)
def test_laws_hold_on_its_own_classes(web_ui: str) -> None:
    folder = os.environ.get(f"LORA_EXT_{web_ui}")
    python = os.environ.get("LORA_EXT_PATCHERS_PYTHON") or os.environ.get("LORA_EXT_FORGE")
    if not folder or not python:
        pytest.skip(f"LORA_EXT_{web_ui} gives no folder of its sources, or no Python is given for them")
    python = python_of(Path(python)) if Path(python).is_dir() else python
    command = [python, str(ROOT / "tests" / "real_patchers.py"), folder]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    assert run.stdout.count("holds: ") >= 8
