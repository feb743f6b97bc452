"""Which parts of a `<lora:…>` tag have an effect where another extension applies it. Works on text only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LORA_EXT_TAG_PARTS = ("lbw", "w", "lbwe", "start", "stop", "step", "x")
"""Named parts of a tag that only LoRA ext and the block-weight extension understand."""


def unknown_parts(items: Sequence[str], also: Iterable[str] = ()) -> list[str]:
    """The parts of a tag that the built-in Lora extension does not act on, as written.

    Args:
        items: what stands between the tag's colons, without `lora`, such as `["cat", "0.8", "lbw=IND"]`.
        also: further names that are not understood there (Forge's extension ignores `dyn`).

    Returns:
        `["lbw=IND"]`; also block weights in their old place (`<lora:cat:1:FACE>`), which the built-in extension takes
        for a number and fails on.
    """
    names = {*LORA_EXT_TAG_PARTS, *also}
    found = []
    for place, item in enumerate(items[1:], start=1):
        name, equals, _ = item.partition("=")
        if equals:
            if name.strip() in names:
                found.append(item.strip())
        elif place > 1 and item.strip() and not _is_number(item):
            found.append(item.strip())
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def ignored_parts_message(items: Sequence[str], parts: Sequence[str], owner: str) -> str:
    """Returns a warning about the parts of one tag that have no effect because `owner` applies it."""
    tag = ":".join(items)
    tag = tag if len(tag) <= 80 else f"{tag[:79]}…"
    return f"<lora:{tag}>: {', '.join(parts)} has no effect: {owner} applies LoRA tags here, not LoRA ext"
