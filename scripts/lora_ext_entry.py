"""The web UI's entry point: loads the package, registers callbacks and unloads. All else is in `lora_ext`."""

import importlib.util
import inspect
import sys
from importlib import import_module
from pathlib import Path

from modules import script_callbacks

FOLDER = Path(__file__).resolve().parent.parent / "lora_ext"
PACKAGE = "sd_webui_lora_ext"
"""What our package is called inside the web UI. Other extensions have a top-level module `lora_ext` of their own
(a2569875's composable-lora), and all extensions share one `sys.modules`: under this name neither hides the other."""


def load() -> None:
    """Imports the package as `PACKAGE`, again where it is there already.

    Reload UI loads this file again but keeps imported packages: ours is dropped, so that an updated one takes effect.
    Not while jobs are running: they go on with the code they started with, and the new tab shows them.
    """
    before = sys.modules.get(f"{PACKAGE}.ui.webui_tab")
    if before is not None and before.Tab.busy():
        return
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        PACKAGE, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)


def is_supported() -> bool:
    """Whether the web UI holds its model as AUTOMATIC1111 or Forge do.

    SD.Next has LoRA in its core (`modules/lora/`) and draws with diffusers pipelines: nothing here would act there. The
    folder is looked for beside `modules/script_callbacks.py`: `modules` has no `__init__.py`, so that in reForge and
    Forge Classic an import of `modules.lora` would find `ldm_patched/modules/lora.py`.
    """
    return not (Path(inspect.getfile(script_callbacks)).parent / "lora").is_dir()


if is_supported():
    load()
    extension = import_module(f"{PACKAGE}.host.a1111.extension").A1111Extension()
    axes = import_module(f"{PACKAGE}.host.a1111.xyz_axes").XyzAxes(
        lambda: extension.library, extension.host_interface.presets, extension.other_tag_owner
    )
    backend = import_module(f"{PACKAGE}.host.a1111.backend")
    tab = import_module(f"{PACKAGE}.ui.webui_tab").Tab(
        backend.A1111Backend(extension.host_interface, extension.remove_all, extension.other_tag_owner),
        backend.configured_users,
        backend.bound_address(),
        backend.tunnel_host_names,
    )

    script_callbacks.on_before_ui(extension.update_tag_ownership)
    script_callbacks.on_app_started(extension.on_app_started)
    script_callbacks.on_model_loaded(extension.on_model_loaded)
    script_callbacks.on_cfg_denoiser(extension.on_step)
    script_callbacks.on_infotext_pasted(extension.on_infotext_pasted)
    script_callbacks.on_image_saved(import_module(f"{PACKAGE}.host.a1111.region_prompts").on_image_saved)
    script_callbacks.on_script_unloaded(extension.unload)
    script_callbacks.on_before_ui(axes.add_to_plot)
    script_callbacks.on_ui_tabs(tab.page)
    script_callbacks.on_app_started(tab.serve)
    script_callbacks.on_script_unloaded(tab.close)
else:
    print(
        "[LoRA ext] this web UI (SD.Next) is not supported: it applies LoRA files itself, in another way. The "
        "extension does nothing here; `python -m lora_ext` works without a web UI."
    )
