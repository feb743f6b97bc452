"""Which parts of a `<lora:…>` tag have an effect where another extension applies it. Works on text only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

LORA_EXT_TAG_PARTS = (
    "compose",
    "hr",
    "hrte",
    "hrunet",
    "lbw",
    "w",
    "lbwe",
    "start",
    "stop",
    "step",
    "x",
    "part",
    "neg",
)
"""Named parts of a tag that only LoRA ext and the block-weight extension understand."""

_NUMBERS = ("te", "unet", "dyn")
"""Named parts of a tag that the built-in extension takes for numbers."""


def unknown_parts(items: Sequence[str], also: Iterable[str] = ()) -> list[str]:
    """The parts of a tag that the built-in Lora extension does not act on, as written.

    Args:
        items: what stands between the tag's colons, without `lora`, such as `["cat", "0.8", "lbw=IND"]`.
        also: further names that are not understood there (Forge's extension ignores `dyn`).

    Returns:
        `["lbw=IND"]`; also block weights in their old place (`<lora:cat:1:FACE>`), which the built-in extension takes
        for a number and fails on.
    """
    return [item.strip() for item in items[1:] if not _is_understood(item, {*LORA_EXT_TAG_PARTS, *also})]


def parts_for_builtin(items: Sequence[str], also: Iterable[str] = ()) -> list[str]:
    """The parts of a tag without those that the built-in Lora extension does not act on, or fails on.

    One part that it takes for a number and that is none makes it apply no tag of the prompt at all.

    Args:
        items: what stands between the tag's colons, without `lora`.
        also: as for `unknown_parts`.
    """
    names = {*LORA_EXT_TAG_PARTS, *also}
    rest, skipped = [], 0
    for item in items[1:]:
        if item.strip().startswith("lbwe="):
            skipped = 3  # a rule has colons itself and so spans three items, the last of which is a number
        if skipped:
            skipped -= 1
        elif item.strip() and _is_understood(item, names):
            rest.append(item)
    return [*items[:1], *rest]


def _is_understood(item: str, names: Collection[str]) -> bool:
    """Whether the built-in extension acts on a part of a tag."""
    name, equals, value = item.partition("=")
    if not equals:
        return not item.strip() or _is_number(item)
    if name.strip() in _NUMBERS:
        return name.strip() not in names and _is_number(value)
    return name.strip() not in names


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
