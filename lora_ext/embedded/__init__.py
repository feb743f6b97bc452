"""The embedded model: a small Stable Diffusion 1.x trained on drawn shapes, with sample LoRAs.

It has the topology and the tensor names of SD 1.5 at a fraction of the width, makes 64x64 pictures of
captions such as "a red circle on a blue background", and runs on any processor. Importing this
package loads nothing heavy; `build` trains all of it anew.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent

CHECKPOINT = _FOLDER / "embedded-sd1.safetensors"
CONFIG = _FOLDER / "embedded-sd1.yaml"
TOKENIZER = _FOLDER / "tokenizer"
LORA_DIR = _FOLDER / "loras"

__all__ = ["CHECKPOINT", "CONFIG", "LORA_DIR", "TOKENIZER"]
