"""`<lora:…>` tags: prompt text → clean text and frozen requests. Pure text; knows no file, no model, no host.

Grammar (the web UI's, with the block-weight extension's additions):
`<lora:NAME:te:unet:dyn>` with named `te= unet= dyn= lbw= lbwe= start= stop= step=a-b x=`; `<lyco:…>` is the same.
Legacy block weights in third place, `<lora:NAME:1:FACE>` and `<lora:NAME:1:0,0,1,…>`, still work.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .blocks import parse_block_range, parse_finite_number
from .errors import BlockError, PromptError, did_you_mean

LORA_TAG_PATTERN = re.compile(r"<(lora|lyco):([^<>]*)>", re.IGNORECASE)
NAMED_TAG_KEYS = ("te", "unet", "dyn", "lbw", "lbwe", "start", "stop", "step", "x")


@dataclass(frozen=True)
class LoraTag:
    """What one tag asks for. `te`, `unet`: multipliers of the text encoders and the U-Net.

    dyn: the first N ranks only. lbw, lbwe: block weights and element rules, as written. start, stop: the U-Net part
    acts from step `start` until before step `stop` (whole numbers count steps from 0; fractions below 1, written with
    a point, are shares of all steps). x: what `X` in a preset stands for.
    """

    name: str
    te: float = 1.0
    unet: float = 1.0
    dyn: int | None = None
    lbw: str | None = None
    lbwe: str | None = None
    start: float | None = None
    stop: float | None = None
    x: float | None = None

    def format_tag(self) -> str:
        """The tag that reads back to this request, in its shortest form."""
        items = ["lora", self.name, format(self.te, "g")]
        if self.unet != self.te:
            items.append(format(self.unet, "g"))
        named = {"dyn": self.dyn, "lbw": self.lbw, "lbwe": self.lbwe, "x": self.x}
        named |= {key: _format_step(value) for key, value in (("start", self.start), ("stop", self.stop))}
        items += [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
                  for key, value in named.items() if value is not None]  # fmt: skip
        return f"<{':'.join(items)}>"


def parse_lora_tags(text: str) -> tuple[str, list[LoraTag], list[PromptError]]:
    """Text without its tags, the requests in order, and one error for each tag that cannot be understood.

    A bad tag never disables the others.
    """
    requests: list[LoraTag] = []
    errors: list[PromptError] = []
    for match in LORA_TAG_PATTERN.finditer(text):
        try:
            requests.append(parse_tag_items(match[2].split(":")))
        except PromptError as error:
            errors.append(error)
    return LORA_TAG_PATTERN.sub("", text), requests, errors


def parse_tag_items(items: Sequence[str]) -> LoraTag:
    """The request of a tag's items (what stands between its colons, without `lora`).

    Raises PromptError that quotes the tag and says what was expected.
    """
    tag = f"<lora:{':'.join(items)}>"
    if "<" in tag[1:]:  # the web UI reads a tag up to the next >
        raise PromptError(f"{_short(tag)} has no > before the next <: close the first tag")
    if not items or not items[0].strip():
        raise PromptError(f"{_short(tag)} names no file")
    named, positional = _split_items(items[1:], tag)
    _name_legacy_items(named, positional, tag)
    try:
        te = parse_finite_number(named.get("te", positional[0] if positional else "1"), tag)
        unet = parse_finite_number(named.get("unet", positional[1] if len(positional) > 1 else str(te)), tag)
        start, stop = _parse_step_range(named, tag)
        return LoraTag(
            name=items[0].strip(),
            te=te,
            unet=unet,
            dyn=_parse_rank(named.get("dyn", positional[2] if len(positional) > 2 else None), tag),
            lbw=named.get("lbw"),
            lbwe=named.get("lbwe"),
            start=start,
            stop=stop,
            x=parse_finite_number(named["x"], tag) if "x" in named else None,
        )
    except BlockError as error:
        raise PromptError(_short(str(error))) from None


def _split_items(items: Sequence[str], tag: str) -> tuple[dict[str, str], list[str]]:
    """Named and positional items. `lbwe=` takes the two items after it along when it begins a rule."""
    named: dict[str, str] = {}
    positional: list[str] = []
    queue = list(items)
    while queue:
        item = queue.pop(0)
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            positional.append(item.strip())
            continue
        if name == "w":
            name = "lbw"  # the block-weight extension's short form
        if name not in NAMED_TAG_KEYS:
            raise PromptError(
                f"{_short(tag)} has {_short(name)!r}=, which is unknown{did_you_mean(name, NAMED_TAG_KEYS)}"
            )
        if name == "lbwe":
            while _begins_rule(value) and len(queue) >= 2 and "=" not in queue[0] + queue[1]:
                value += f":{queue.pop(0)}:{queue.pop(0)}"
        named[name] = value
    return named, [item for item in positional if item or len(positional) > 1]


def _begins_rule(text: str) -> bool:
    """Whether `text` ends in the BLOCKS of a rule BLOCKS:ELEMENTS:weight that is still open."""
    last = text.rsplit(",", 1)[-1].removeprefix("NOT ")
    if ":" in last:
        return False
    try:
        parse_block_range(last)
    except BlockError:
        return False
    return True


def _name_legacy_items(named: dict[str, str], positional: list[str], tag: str) -> None:
    """Moves block weights written in third place, and the element preset or x in fourth, to their names."""

    def is_number(text: str) -> bool:
        try:
            parse_finite_number(text, tag)
        except BlockError:
            return False
        return True

    if len(positional) > 1 and not is_number(positional[1]):
        named.setdefault("lbw", positional.pop(1))
        if len(positional) > 1:
            fourth = positional.pop(1)
            named.setdefault("x" if is_number(fourth) else "lbwe", fourth)
    if len(positional) > 2 and not is_number(positional[2]):
        named.setdefault("lbw", positional.pop(2))
    if len(positional) > 3:
        raise PromptError(f"{_short(tag)} has {len(positional)} numbers; it takes te, unet and dyn")


def _parse_step_range(named: dict[str, str], tag: str) -> tuple[float | None, float | None]:
    values: dict[str, str] = {key: named[key] for key in ("start", "stop") if key in named}
    if "step" in named:
        first, dash, last = named["step"].partition("-")
        if not dash:
            raise PromptError(f"step={_short(named['step'])} in {_short(tag)} is not a range such as step=5-10")
        values = {"start": first, "stop": last} | values
    start, stop = (_parse_step(values.get(key), tag) for key in ("start", "stop"))
    return start, stop


def _parse_step(text: str | None, tag: str) -> float | None:
    """A step: whole numbers count steps; a number with a point, up to 1.0, is a share and stays a float."""
    if text is None or not text.strip():
        return None
    value = parse_finite_number(text, tag)
    if value < 0 or (value > 1 and value != int(value)):
        raise PromptError(f"step {_short(text)!r} in {_short(tag)} is neither a whole number nor a share 0.0–1.0")
    return value if "." in text and value <= 1 else int(value)  # 5.0 is step 5, not 500 % of the steps


def _format_step(value: float | None) -> str | None:
    return None if value is None else repr(value)


def _parse_rank(text: str | None, tag: str) -> int | None:
    if text is None or not text.strip():
        return None
    value = parse_finite_number(text, tag)
    if value != int(value) or value < 1:
        raise PromptError(f"dyn={_short(text)} in {_short(tag)} is not a rank (a whole number from 1)")
    return int(value)


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


# --- names of learned words ------------------------------------------------------------------------------------------


def surround_with_spaces(text: str, token: str) -> str:
    """`text` with blanks around `token` where the word begins or ends with punctuation that other punctuation touches.

    A tokenizer takes a run of punctuation as one piece: in `<s1>,` the `>,` is not the `>` of `<s1>`, so that the word
    is not found there. Words that begin and end with a letter or digit are left as they stand.
    """
    first, last = not token[:1].isalnum(), not token[-1:].isalnum()
    letter = r"[^\W_]"
    pattern = ("" if first else f"(?<!{letter})") + re.escape(token) + ("" if last else f"(?!{letter})")

    def apart(match: re.Match[str]) -> str:
        before, after = text[: match.start()], text[match.end() :]
        left = " " if first and before and not before[-1].isspace() else ""
        right = " " if last and after and not after[0].isspace() else ""
        return left + match[0] + right

    return re.sub(pattern, apart, text, flags=re.IGNORECASE) if token else text
