"""Scripts: their files are run when the UI is built, and again at Reload UI."""

import types
from pathlib import Path
from types import SimpleNamespace

from modules import errors, script_callbacks

scripts_data = []
modules = {}
"""File name → its module."""


class ScriptRunner:
    """The scripts of one tab."""

    def __init__(self):
        self.alwayson_scripts = []


def load_scripts(files):
    """Each file is a new module named after it. One that cannot be loaded does not keep others from it."""
    scripts_data.clear()
    script_callbacks.clear_callbacks()
    for file in map(Path, files):
        module = types.ModuleType(file.name)
        module.__file__ = str(file)
        try:
            exec(compile(file.read_text(encoding="utf-8"), file, "exec"), vars(module))
        except Exception:
            errors.report(f"script {file.name}", exc_info=True)
            continue
        modules[file.name] = module
        if hasattr(module, "Script"):
            data = SimpleNamespace(
                script_class=module.Script, module=module, path=str(file), basedir=str(file.parent.parent)
            )
            scripts_data.append(data)
