"""The embedded model's text encoder for the web UI, which makes it from `embedded-sd1.yaml`."""

from __future__ import annotations

from . import TOKENIZER


def web_ui_text_encoder() -> object:
    """LDM's CLIP text encoder with the tokenizer and the configuration of this package.

    LDM's class takes a folder, and a yaml can only name one relative to where the web UI was started. Named as a
    `target` in the yaml, this function finds the folder wherever the checkpoint was copied to.
    """
    from ldm.modules.encoders.modules import FrozenCLIPEmbedder

    return FrozenCLIPEmbedder(version=str(TOKENIZER))
