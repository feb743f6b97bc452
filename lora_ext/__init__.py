"""lora-ext: LoRA-family files for Stable Diffusion, applied exactly, in the web UI and on diffusers."""

__version__ = "0.1.0"
