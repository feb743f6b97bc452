"""Run by the web UI at each start. Installs what is missing, and never touches what is there (torch, gradio …).

Neither package needs another one, so that pip has no reason to change any.
"""

import launch

for name in ("safetensors", "einops"):
    if not launch.is_installed(name):
        launch.run_pip(f"install {name}", f"{name} for LoRA ext")
