"""The tab: one root element that `javascript/lora_ext*.js` fills. The only room, beside hosts, that imports gradio."""

from .standalone import main

__all__ = ["main"]
