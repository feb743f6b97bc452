"""The embedded model: a small Stable Diffusion 1.x trained on drawn shapes, with sample LoRAs.

It has the topology and the tensor names of SD 1.5 at a fraction of the width, makes 64x64 images of
captions such as "a red circle on a blue background", and runs on any processor. Importing this
package loads nothing heavy; `build` trains all of it anew.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent

CHECKPOINT = _FOLDER / "embedded-sd1.safetensors"
CONFIG = _FOLDER / "embedded-sd1.yaml"
TOKENIZER = _FOLDER / "tokenizer"
LORA_DIR = _FOLDER / "loras"
TEXT_TARGET = "sd_webui_lora_ext.embedded.text_encoder.web_ui_text_encoder"
"""What makes the text encoder, as CONFIG names it: `text_encoder.py` under this package's name in the web UI."""

__all__ = ["CHECKPOINT", "CONFIG", "LORA_DIR", "TEXT_TARGET", "TOKENIZER"]
