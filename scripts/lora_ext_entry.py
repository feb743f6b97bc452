"""The web UI's way in: registers, wires and unloads. Everything else is in the package `lora_ext`."""

import sys
from pathlib import Path

from modules import script_callbacks

ROOT = str(Path(__file__).resolve().parent.parent)

# Reload UI loads this file again, but keeps imported packages: drop ours, so that an updated one takes effect.
# Not while jobs are at work: they go on with the code that they began with, and the new tab shows them.
before = sys.modules.get("lora_ext.ui.webui")
if before is None or not before.Tab.busy():
    for name in [name for name in sys.modules if name.split(".")[0] == "lora_ext"]:
        del sys.modules[name]
sys.path.insert(0, ROOT)
try:
    from lora_ext.host.a1111 import Host
    from lora_ext.host.a1111_axes import Axes
    from lora_ext.host.a1111_desk import A1111Desk, users
    from lora_ext.ui.webui import Tab
finally:
    sys.path.remove(ROOT)

host = Host()
script_callbacks.on_before_ui(host.settle)
script_callbacks.on_app_started(host.opened)
script_callbacks.on_model_loaded(host.on_model_loaded)
script_callbacks.on_cfg_denoiser(host.on_step)
script_callbacks.on_infotext_pasted(host.on_pasted)
script_callbacks.on_script_unloaded(host.unload)
script_callbacks.on_before_ui(Axes(lambda: host.library, host.shell.presets).add)

tab = Tab(A1111Desk(host.shell, host.release), users)
script_callbacks.on_ui_tabs(tab.page)
script_callbacks.on_app_started(tab.serve)
script_callbacks.on_script_unloaded(tab.close)
