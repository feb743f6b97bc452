"""Parses `<lora:…>` tags in a prompt into `LoraTag` objects. Works on text only: no file, model or host is needed.

Grammar (the web UI's, with the additions of the block-weight extension and of sd-webui-loractl):
`<lora:NAME:te:unet:dyn>` with the named items `te= unet= hr= hrte= hrunet= dyn= lbw= lbwe= start= stop= step=a-b x=`,
`part=own` or `part=all` (also `common`) in a prompt of several parts joined by AND, and `neg=0` or `neg=1`;
`<lyco:…>` and `<loractl:…>` mean the same. A weight may be a curve over the steps, `0@0,1@0.5`. Older block weights in
third place, `<lora:NAME:1:FACE>` and `<lora:NAME:1:0,0,1,…>`, are accepted too. `at=` and `feather=` say where in the
picture the file acts, and `way=` how. `compose=` says how several files act together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

from .block_weights import parse_finite_number
from .blocks import parse_block_range
from .composition import parse_composition
from .errors import BlockError, PromptError, did_you_mean
from .regions import Region, parse_region
from .weight_curve import WeightCurve, parse_weight

_T = TypeVar("_T")

TAG_NAMES = ("lora", "lyco", "loractl")
"""The names of tags: the web UI's, LyCORIS's old extension's and sd-webui-loractl's; all mean the same."""
LORA_TAG_PATTERN = re.compile(rf"<({'|'.join(TAG_NAMES)}):([^<>]*)>", re.IGNORECASE)
NAMED_TAG_KEYS = ("te", "unet", "hr", "hrte", "hrunet", "dyn", "lbw", "lbwe", "start", "stop", "step", "x", "compose",
                  "part", "neg")  # fmt: skip
PLACE_TAG_KEYS = ("at", "feather", "way")
SEPARATE, OUTPUT = "separate", "output"
REGION_WAYS = (SEPARATE, OUTPUT)
"""How a LoRA is kept to its region: by a prediction of its own, or by masks on the outputs of its layers."""
OWN_PART, ALL_PARTS = "own", "all"
_COMMON = "common"
"""A word in a tag that means `part=all`."""


@dataclass(frozen=True)
class HiresWeights:
    """The weights of one tag in the hires pass, where they differ from those of the first pass.

    Attributes:
        te: weight of the text encoders.
        unet: weight of the U-Net.
        te_curve: as in `LoraTag`.
        unet_curve: as in `LoraTag`.
    """

    te: float
    unet: float
    te_curve: WeightCurve | None = None
    unet_curve: WeightCurve | None = None


@dataclass(frozen=True)
class LoraTag:
    """The contents of one tag.

    Attributes:
        name: the file's name as written in the tag.
        te: weight of the text encoders.
        unet: weight of the U-Net.
        dyn: use only the first `dyn` ranks (for DyLoRA files); None uses all.
        lbw: block weights as written: a preset's name or comma-separated numbers.
        lbwe: element rules as written.
        start: first step at which the U-Net part acts. An int counts steps from 0; a float is a fraction of all steps.
        stop: step before which the U-Net part stops acting; int or float as for `start`.
        x: the number that `X` in a preset stands for.
        te_curve: factor of `te` over the steps; the text is encoded once, so that its value at step 0 counts.
        unet_curve: factor of `unet` over the steps.
        hires: the weights in the hires pass; None where they are those of the first pass.
        at: where in the picture the file acts, as `regions.parse_region` parses it; None for everywhere.
        feather: width of the region's soft edge as a share of the picture's side.
        way: how it is kept to its region, one of `REGION_WAYS`.
        compose: how it acts together with the prompt's other files, as written; None as they do.
        part: in a prompt of several parts joined by AND: "own" for the part that the tag stands in, "all" for all;
            None as the settings say.
        neg: whether it acts on the negative prompt; None as the settings say.
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
    te_curve: WeightCurve | None = field(default=None, repr=False)
    unet_curve: WeightCurve | None = field(default=None, repr=False)
    hires: HiresWeights | None = field(default=None, repr=False)
    at: str | None = None
    feather: float = 0.0
    way: str = SEPARATE
    compose: str | None = None
    part: str | None = field(default=None, repr=False)
    neg: bool | None = field(default=None, repr=False)

    @property
    def region(self) -> Region | None:
        """Where in the picture the file acts; None for everywhere. Raises PromptError where `at` is no region."""
        return None if self.at is None else parse_region(self.at, self.feather)

    @property
    def acts_on_single_conditions(self) -> bool:
        """Whether it says itself on which conditions it acts: parts joined by AND, the negative prompt."""
        return self.part is not None or self.neg is not None

    @property
    def encoded_te(self) -> float:
        """The weight of the text encoders that acts: a curve's at the first step, since the text is encoded once."""
        return self.te if self.te_curve is None else self.te * self.te_curve.at(0, 1, math.inf)

    def for_hires_pass(self) -> LoraTag:
        """Returns the tag with the weights of the hires pass."""
        return self if self.hires is None else replace(self, **vars(self.hires), hires=None)

    def format_tag(self) -> str:
        """Formats the shortest tag that parses to this object.

        Example:
            >>> LoraTag("cat", te=0.5, unet=0.8, lbw="OUTALL").format_tag()
            '<lora:cat:0.5:0.8:lbw=OUTALL>'
        """
        items = ["lora", self.name, *format_weights(self)]
        if self.hires is not None:
            te, *unet = format_weights(self.hires)
            items += [f"hr={te}"] if not unet else [f"hrte={te}", f"hrunet={unet[0]}"]
        named = {"dyn": self.dyn, "lbw": self.lbw, "lbwe": self.lbwe, "x": self.x}
        named |= {"part": self.part, "neg": None if self.neg is None else int(self.neg)}
        named |= {key: _format_step(value) for key, value in (("start", self.start), ("stop", self.stop))}
        named |= {"at": self.at, "feather": self.feather or None, "way": None if self.way == SEPARATE else self.way}
        named |= {"compose": self.compose}
        items += [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
                  for key, value in named.items() if value is not None]  # fmt: skip
        return f"<{':'.join(items)}>"


def parse_lora_tags(text: str) -> tuple[str, list[LoraTag], list[PromptError]]:
    """Parses all tags of a prompt. A tag with an error does not affect the others.

    Args:
        text: the prompt.

    Returns:
        (the prompt without tags, the parsed tags in order, one error for each tag that cannot be parsed).

    Example:
        >>> text, tags, errors = parse_lora_tags("a cat <lora:style:0.8>")
        >>> text, tags[0].name, tags[0].unet, errors
        ('a cat ', 'style', 0.8, [])
    """
    tags: list[LoraTag] = []
    errors: list[PromptError] = []
    for match in LORA_TAG_PATTERN.finditer(text):
        try:
            tags.append(parse_tag_items(match[2].split(":")))
        except PromptError as error:
            errors.append(error)
    return LORA_TAG_PATTERN.sub("", text), tags, errors


def parse_tag_items(items: Sequence[str]) -> LoraTag:
    """Parses the items of one tag.

    Args:
        items: the texts between the tag's colons, without `lora`: the name first.

    Returns:
        The parsed tag.

    Raises:
        PromptError: an item is unknown or its value is not accepted; the message quotes the tag.
    """
    return _parse_tag(tuple(items))


@lru_cache(maxsize=4096)  # a sheet asks for the same tags of thousands of cells
def _parse_tag(items: tuple[str, ...]) -> LoraTag:
    tag = f"<lora:{':'.join(items)}>"
    if "<" in tag[1:]:  # the web UI reads a tag up to the next >
        raise PromptError(f"{_short(tag)} has no > before the next <; close the first tag with >")
    if not items or not items[0].strip():
        raise PromptError(f"{_short(tag)} has no file name; write one after the first colon")
    named, positional = _split_items(items[1:], tag)
    _name_legacy_items(named, positional, tag)
    try:
        te_text = named.get("te", positional[0] if positional else "1")
        unet_text = named.get("unet", positional[1] if len(positional) > 1 else te_text)
        te, te_curve = parse_weight(te_text, tag)
        unet, unet_curve = parse_weight(unet_text, tag)
        start, stop = _parse_step_range(named, tag)
        at, feather, way = _parse_place(named, tag)
        return LoraTag(
            name=items[0],
            te=te,
            unet=unet,
            dyn=_parse_rank(named.get("dyn", positional[2] if len(positional) > 2 else None), tag),
            lbw=named.get("lbw"),
            lbwe=named.get("lbwe"),
            start=start,
            stop=stop,
            x=parse_finite_number(named["x"], tag) if "x" in named else None,
            te_curve=te_curve,
            unet_curve=unet_curve,
            hires=_parse_hires(named, te_text, unet_text, tag),
            at=at,
            feather=feather,
            way=way,
            compose=_parse_compose(named.get("compose")),
            part=_parse_choice(named, "part", {OWN_PART: OWN_PART, ALL_PARTS: ALL_PARTS, _COMMON: ALL_PARTS}, tag),
            neg=_parse_choice(named, "neg", {"0": False, "1": True}, tag),
        )
    except BlockError as error:
        raise PromptError(_short(str(error))) from None


def _split_items(items: Sequence[str], tag: str) -> tuple[dict[str, str], list[str]]:
    """Separates named from positional items. A rule of `lbwe=` contains colons, so it spans three items."""
    named: dict[str, str] = {}
    positional: list[str] = []
    queue = list(items)
    while queue:
        item = queue.pop(0)
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals and name == _COMMON:
            named["part"] = name
            continue
        if not equals:
            positional.append(item.strip())
            continue
        if name == "w":
            name = "lbw"  # the block-weight extension's short form
        if name not in (*NAMED_TAG_KEYS, *PLACE_TAG_KEYS):
            known = (*NAMED_TAG_KEYS, *PLACE_TAG_KEYS)
            hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
            raise PromptError(f"{_short(tag)} has the unknown key {_short(name)!r}{hint}")
        if name == "lbwe":
            while _begins_rule(value) and len(queue) >= 2 and "=" not in queue[0] + queue[1]:
                value += f":{queue.pop(0)}:{queue.pop(0)}"
        _give(named, name, value, tag)
    return named, [item for item in positional if item or len(positional) > 1]


def _give(named: dict[str, str], key: str, value: str, tag: str) -> None:
    """Sets an item. One that is given twice is an error, since one of both would be lost."""
    if key in named:
        raise PromptError(f"{_short(tag)} gives {key} twice; keep one of them")
    named[key] = value


def _begins_rule(text: str) -> bool:
    """Whether `text` ends with the BLOCKS of a rule BLOCKS:ELEMENTS:weight whose other items follow."""
    last = text.rsplit(",", 1)[-1].removeprefix("NOT ")
    if ":" in last:
        return False
    try:
        parse_block_range(last)
    except BlockError:
        return False
    return True


def _name_legacy_items(named: dict[str, str], positional: list[str], tag: str) -> None:
    """Names the items of the block-weight extension's older form: block weights third, element rules or x fourth."""

    def is_number(text: str) -> bool:
        try:
            parse_weight(text, tag)
        except BlockError:
            return False
        return True

    if len(positional) > 1 and not is_number(positional[1]):
        _give(named, "lbw", positional.pop(1), tag)
        if len(positional) > 1:
            fourth = positional.pop(1)
            _give(named, "x" if is_number(fourth) else "lbwe", fourth, tag)
    if len(positional) > 2 and not is_number(positional[2]):
        _give(named, "lbw", positional.pop(2), tag)
    if len(positional) > 3:
        raise PromptError(f"{_short(tag)} has {len(positional)} numbers; it takes te, unet and dyn (at most three)")


def _parse_hires(named: dict[str, str], te: str, unet: str, tag: str) -> HiresWeights | None:
    """Parses `hr=` (both), `hrte=` and `hrunet=`; what is not given is as in the first pass."""
    if not named.keys() & {"hr", "hrte", "hrunet"}:
        return None
    both = named.get("hr")
    te_weight, te_curve = parse_weight(named.get("hrte", both or te), tag)
    unet_weight, unet_curve = parse_weight(named.get("hrunet", both or unet), tag)
    return HiresWeights(te_weight, unet_weight, te_curve, unet_curve)


def format_weights(weights: LoraTag | HiresWeights) -> list[str]:
    """Formats weights as they stand in a tag.

    Args:
        weights: a tag, or its weights of the hires pass.

    Returns:
        The texts for the text encoders and the U-Net; one text where both are equal.
    """
    te, unet = (
        format(weight, "g") if curve is None else curve.times(weight).format_curve()
        for weight, curve in ((weights.te, weights.te_curve), (weights.unet, weights.unet_curve))
    )
    return [te] if te == unet else [te, unet]


def _parse_step_range(named: dict[str, str], tag: str) -> tuple[float | None, float | None]:
    values: dict[str, str] = {key: named[key] for key in ("start", "stop") if key in named}
    if "step" in named:
        first, dash, last = named["step"].partition("-")
        if not dash:
            raise PromptError(f"step={_short(named['step'])} in {_short(tag)} is not a range such as step=5-10")
        values = {"start": first, "stop": last} | values
    start, stop = (_parse_step(values.get(key), tag) for key in ("start", "stop"))
    if isinstance(start, float) and stop == 1:
        stop = 1.0  # step=0.5-1: beside a share, 1 is no step but all of them
    return start, stop


def _parse_place(named: dict[str, str], tag: str) -> tuple[str | None, float, str]:
    """Parses `at=`, `feather=` and `way=`."""
    at, way = named.get("at"), named.get("way", SEPARATE)
    if at is None and named.keys() & {"feather", "way"}:
        raise PromptError(f"{_short(tag)} says nothing of where it acts: feather= and way= belong to at=")
    if way not in REGION_WAYS:
        raise PromptError(f"way={_short(way)} in {_short(tag)} is not known{did_you_mean(way, REGION_WAYS)}")
    feather = parse_finite_number(named["feather"], tag) if "feather" in named else 0.0
    if at is not None:
        parse_region(at, feather)
    return at, feather, way


def _parse_compose(text: str | None) -> str | None:
    """Checks the text of `compose=`."""
    if text is not None:
        parse_composition(text)
    return text


def _parse_step(text: str | None, tag: str) -> float | None:
    """Parses a step: a whole number counts steps, a number from 0.0 to 1.0 with a point is a fraction of all steps."""
    if text is None or not text.strip():
        return None
    value = parse_finite_number(text, tag)
    if value < 0 or (value > 1 and value != int(value)):
        raise PromptError(f"step {_short(text)!r} in {_short(tag)} is neither a whole number nor a fraction 0.0–1.0")
    return value if "." in text and value <= 1 else int(value)  # 5.0 is step 5, not 500 % of the steps


def _parse_choice(named: dict[str, str], key: str, choices: Mapping[str, _T], tag: str) -> _T | None:
    """Parses an item that has few values; None where it is not given."""
    if key not in named:
        return None
    if named[key] not in choices:
        raise PromptError(f"{key}={_short(named[key])} in {_short(tag)} is not known; write {' or '.join(choices)}")
    return choices[named[key]]


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


# --- token embeddings ------------------------------------------------------------------------------------------------


def surround_with_spaces(text: str, token: str) -> str:
    """Puts spaces around a token of a learned embedding where it touches other punctuation.

    CLIP's tokenizer reads a run of punctuation as one token: in `<s1>,` it reads `>,`, so that `<s1>` is not found.
    A token that begins and ends with a letter or digit needs no spaces.

    Args:
        text: a prompt or caption.
        token: the name of the embedding, found without regard to case.

    Returns:
        The text with spaces where they are needed.

    Example:
        >>> surround_with_spaces("a photo of <s1>, smiling", "<s1>")
        'a photo of <s1> , smiling'
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
