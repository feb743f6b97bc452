"""What never acts is reported in one sentence: an empty range of steps, weight 0 everywhere."""

from __future__ import annotations

import pytest

from lora_ext.adapter_spec import AdapterSpec, Presets, resolve_tag, spec_from_tag, strong_weight_note
from lora_ext.block_weights import BLOCK_PRESETS, parse_block_weights
from lora_ext.embedded import LORA_DIR
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.layer_names import TE, UNET, LayerId
from lora_ext.lora_tags import parse_tag_items
from lora_ext.no_effect_reasons import empty_step_range_reason, no_effect_reason

LAYERS = (LayerId(UNET, "IN01", "a"), LayerId(UNET, "OUT05", "b"))
WORDS = (LayerId(TE, "BASE", "c"),)


def spec(tag: str) -> AdapterSpec:
    """The spec of a tag's items; its file does not matter here."""
    asked = parse_tag_items(tag.split(":"))
    blocks = {"blocks": parse_block_weights(asked.lbw, presets=BLOCK_PRESETS)} if asked.lbw else {}
    return AdapterSpec(None, asked.te, asked.unet, **blocks, start=asked.start, stop=asked.stop, name=asked.name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tag", "total", "says"),
    [
        ("a:1:step=9-2", None, "it starts at step 9 and stops before step 2; swap them: step=2-9"),
        ("a:1:step=5-5", None, "it starts at step 5 and stops before step 5"),
        ("a:1:step=0.8-0.2", None, "it starts at 80% of the steps and stops before 20% of the steps"),
        ("a:1:start=1.0", None, "it starts after the last step"),
        ("a:1:stop=0", None, "it stops before the first step"),
        ("a:1:start=50", 20, "it starts at step 50, and the image has 20 steps (0 to 19)"),
        ("a:1:start=0.9:stop=5", 20, "it starts at 90% of the steps and stops before step 5, and"),
        ("a:0", None, "changes nothing: its weight is 0"),
        ("a:0:0", None, "changes nothing: its weight is 0"),
        ("a:1:lbw=" + ",".join("0" * 17), None, "its weight is 0 in every layer of the file"),
        ("a:1:lbw=0,0,0,0,0,0,0,1" + ",0" * 9, None, "its weight is 0 in every layer of the file"),
    ],
)
def test_never(tag: str, total: int | None, says: str) -> None:
    said = no_effect_reason(spec(tag), LAYERS, total)
    assert says in said and said.startswith("a") and "\n" not in said


@pytest.mark.parametrize(
    ("tag", "total"),
    [("a:1", None), ("a:1:step=2-9", None), ("a:1:start=50", None), ("a:1:start=50", 60), ("a:1:step=2-9", 4),
     ("a:-1", None), ("a:0:1", None), ("a:1:lbw=OUTALL", None), ("a:1:start=0:stop=1", 20)],
)  # fmt: skip
def test_acts(tag: str, total: int | None) -> None:
    assert no_effect_reason(spec(tag), LAYERS, total) == ""


@pytest.mark.parametrize(
    ("items", "says"),
    [("lbwe=IN05-OUT05:atn:0", "the rule 'IN05-OUT05:atn:0' applies to no layer of the file; did you mean 'attn'?"),
     ("lbwe=IN00:attn:0,MID:attn:0", "the rule 'IN00:attn:0' applies to no layer of the file"),
     ("lbw=MIDD:x=0.5", "x=0.5 changes nothing: none of the block weights is X"),
     ("lbw=" + "X," * 16 + "1:x=0.5", ""), ("lbw=" + "R," * 16 + "X-1:x=0.5", ""), ("lbwe=ATTNDEEPOFF", "")],
)  # fmt: skip
def test_items_of_a_tag_that_change_nothing_are_named(items: str, says: str) -> None:
    tag = parse_tag_items(f"framed:1:{items}".split(":"))
    assert "; ".join(resolve_tag(tag, LoraLibrary([LORA_DIR])).notes) == says


@pytest.mark.parametrize(
    ("items", "strong"),
    [("12", "12"), ("1:-7.5", "-7.5"), ("-50:1", "-50"), ("5", ""), ("-5", ""), ("0.8", ""),
     ("0@0,12@1", "12"), ("1@0,-8@0.3,1@1", "-8"), ("1:12@s14.6,0@s0.5", "12"), ("0@0,5@1", ""),
     ("12@0,0@1", "12"), ("1:hr=9", "9"), ("9:hr=1", "9"), ("1:hr=0.5", ""), ("1:hr=1@0,7@1", "7"),
     ("2:lbw=ALL5", "10 in block IN01"), ("12:lbw=ALL0.5", "6 in block IN01"), ("10:lbw=ALL0.5", ""),
     ("2:lbw=ALL0.5@0;ALL4@1", "8 in block IN01"), ("1@0,2@1:lbw=ALL5", "10 in block IN01"),
     ("0:1:lbw=ALL5", ""), ("1:0:lbw=BASE6", "6 in block BASE")],
)  # fmt: skip
def test_a_weight_far_outside_the_usual_is_told(items: str, strong: str) -> None:
    """`<lora:framed:12>` was drawn without a word; 1.2 was meant. Curves and block weights say such weights too."""
    sizes = {"ALL5": "1" + ",5" * 16, "ALL0.5": "0.5" + ",0.5" * 16, "ALL4": "1" + ",4" * 16, "BASE6": "6" + ",1" * 16}
    file = LoraFile(dict.fromkeys((*LAYERS, *WORDS)))  # type: ignore[arg-type]
    tag = parse_tag_items(f"framed:{items}".split(":"))
    note = strong_weight_note(tag, spec_from_tag(tag, file, Presets(sizes)))
    told = f"weight {strong} is unusually strong: most files are made for about 1, sliders for at most 5"
    assert note == (told if strong else "")


def test_a_weight_far_outside_the_usual_is_a_note_of_the_tag() -> None:
    for items, strong in (("1@0,12@1", "12"), ("2:lbwe=OUT05:attn:-4", "-8 in block OUT05")):
        notes = resolve_tag(parse_tag_items(f"framed:{items}".split(":")), LoraLibrary([LORA_DIR])).notes
        assert notes == (
            f"weight {strong} is unusually strong: most files are made for about 1, sliders for at most 5",
        )
    assert resolve_tag(parse_tag_items(["framed", "1"]), LoraLibrary([LORA_DIR])).notes == ()


def test_the_text_encoder_acts_at_all_steps() -> None:
    assert no_effect_reason(spec("a:1:step=9-2"), (*LAYERS, *WORDS)).startswith("a: its U-Net part never acts")
    assert no_effect_reason(spec("a:1:step=9-2"), LAYERS).startswith("a: it never acts")
    assert no_effect_reason(spec("a:1:step=9-2"), WORDS) == ""


def test_a_file_that_does_not_fit_is_not_said_to_have_weight_0() -> None:
    assert no_effect_reason(spec("a:1"), ()) == no_effect_reason(spec("a:1:step=9-2"), ()) == ""


def test_one_step_too_late() -> None:
    assert empty_step_range_reason(19, None, 20) == "" and empty_step_range_reason(20, None, 20)
    assert empty_step_range_reason(0.95, None, 20) == "" and empty_step_range_reason(0.96, None, 20)


def test_a_step_with_a_point_is_no_share_of_500_percent() -> None:
    assert parse_tag_items("a:1:start=5.0".split(":")) == parse_tag_items("a:1:start=5".split(":"))
    assert isinstance(parse_tag_items("a:1:start=1.0".split(":")).start, float)
