"""Block weights in the infotext, without a web UI: what is written reads back, and only what differs is put back."""

from __future__ import annotations

import json
import re

import pytest

from lora_ext.adapter_spec import Presets, resolve_block_weights
from lora_ext.host import block_weights_infotext as infotext
from lora_ext.lora_tags import parse_lora_tags, parse_tag_items

PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""How the web UI takes an infotext's last line apart."""
DRAWN = ",".join(["R"] * 17)
TAGS = (
    f"<lora:a:0.8:lbw={DRAWN}>",
    "<lora:b b:1:lbw=IND:lbwe=NOT IN04-OUT05:attn ff:0.25,:proj:0>",
    "<lora:c:1>",
    "<lora:d:0.5:lbw=0.5,0.25,1,1,1,1,1,1,1,1,1,1>",
    "<lora:e:1:lbwe=ATTNDEEPOFF>",
    "<lyco:f:1:lbw=X,X,X,X,X,X,X,X,X,X,X,X,X,X,X,X,X:x=0.3>",
)


def _rows(prompt: str, presets: Presets, seed: int) -> list[infotext.BlockWeightsRow]:
    rows = [
        infotext.block_weights_row(request, resolve_block_weights(request, presets, seed=seed))
        for request in parse_lora_tags(prompt)[1]
    ]
    return [row for row in rows if row is not None]


def test_written_survives_the_web_uis_quoting() -> None:
    rows = _rows("".join(TAGS), Presets(), 1)
    text = infotext.format_block_weights_rows(rows)
    assert text is not None
    line = f"Steps: 20, {infotext.BLOCK_WEIGHTS_KEY}: {json.dumps(text)}, Version: 1.10.1"
    found = dict(PARAMETER.findall(line))
    assert infotext.parse_block_weights_rows(json.loads(found[infotext.BLOCK_WEIGHTS_KEY])) == rows
    assert len(rows) == 5


@pytest.mark.parametrize("tag", TAGS)
def test_rules_and_vectors_read_back_to_the_same_weights(tag: str) -> None:
    request = parse_lora_tags(tag)[1][0]
    blocks = resolve_block_weights(request, Presets(), seed=3)
    row = infotext.block_weights_row(request, blocks)
    if row is None:
        assert tag == "<lora:c:1>"
        return
    again = parse_tag_items(
        [row.name, "1", f"lbw={row.vector or 'ALL'}", *([f"lbwe={row.rules}"] if row.rules else [])]
    )
    remade = resolve_block_weights(again, Presets())
    assert remade.rules == blocks.rules
    assert row.vector is None or remade.weights == blocks.weights


def test_only_drawn_and_changed_values_are_put_back() -> None:
    mine = Presets({"MINE": ",".join(["0.5"] * 17), "SAME": ",".join(["1"] * 17)})
    prompt = f"cat <lora:a:0.8:0.3:lbw={DRAWN}>, <lora:b:1:MINE> <lora:c:lbw=SAME:start=3> <lora:d:.50> <bad"
    text = infotext.format_block_weights_rows(_rows(prompt, mine, 1))
    assert text is not None
    now = Presets({"MINE": ",".join(["0.7"] * 17), "SAME": ",".join(["1"] * 17)})
    restored = infotext.restore_block_weights(prompt, text, now)
    vector = infotext.parse_block_weights_rows(text)[0].vector
    half = ",".join(["0.5"] * 17)
    assert restored == (
        f"cat <lora:a:0.8:0.3:lbw={vector}>, <lora:b:1:lbw={half}> <lora:c:lbw=SAME:start=3> <lora:d:.50> <bad"
    )
    assert infotext.restore_block_weights(restored, text, now) == restored


def test_tags_that_were_renamed_or_lost_are_found_by_place_or_name() -> None:
    presets = Presets()
    text = infotext.format_block_weights_rows(_rows(f"<lora:a:1:lbw={DRAWN}> <lora:b:1:lbw={DRAWN}>", presets, 1))
    assert text is not None
    first, second = (row.vector for row in infotext.parse_block_weights_rows(text))
    renamed = infotext.restore_block_weights(f"<lora:x:1:lbw={DRAWN}> <lora:y:1:lbw={DRAWN}>", text, presets)
    assert renamed == f"<lora:x:1:lbw={first}> <lora:y:1:lbw={second}>"
    assert infotext.restore_block_weights(f"<lora:b:1:lbw={DRAWN}>", text, presets) == f"<lora:b:1:lbw={second}>"
    assert infotext.restore_block_weights(f"<lora:z:1:lbw={DRAWN}>", text, presets) == f"<lora:z:1:lbw={DRAWN}>"


@pytest.mark.parametrize("text", ["", ";", "a", "a:", ": 1,2", "a: R", "\n;;::"])
def test_any_text_can_be_pasted(text: str) -> None:
    assert isinstance(infotext.restore_block_weights("<lora:a:1:lbw=ALL> <lora:b:1:lbw=R>", text, Presets()), str)
