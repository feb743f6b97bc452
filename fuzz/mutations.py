"""Random changes of an input: of its bytes, and of the values in it where it is JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

LONGEST = 20_000
"""Bytes of the longest input; what takes quadratic time is over a second there."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**30), 0.5, -0.0, 1e308, 1e-320, float("nan"),
    float("inf"), "", "a", " ", "\ud800", "\0", "\u202e", "../../x", "1e999", "9" * 4400, "NaN", "a" * 300, [], {}, [[]],
    [None], {"a": {}}, {"": 0}, [1, "a"], [0] * 70,
)  # fmt: skip
WORDS = tuple(
    word.encode("utf-8", "surrogatepass")
    for word in (
        *"\0 \n \r \t \ufeff \u2028 \ud800 \udfff é 漢 😀 \u202e ( ) [ ] { } < > : ; , . = @ | # % & * + - / \\ ' \" `".split(" "),
        *"-1 0 1e999 1e-999 nan inf -inf 0x10 1_0 ٣ ² 99999999999999999999 1e5 0.0 -0 2**63 true null None NaN".split(),
        *"BREAK AND ADDCOL ADDROW ADDCOMM ADDBASE <lora: <lyco: :lbw= :at= :step= :start= :neg=0 :part= :x= :lbwe= @0".split(),
        "9" * 4400, "((((", "))))", "[[[[", "]]]]", "{{{{", "    ", "::::", ",,,,", "....", "../", "C:\\", "__metadata__",
    )
)  # fmt: skip


def mutate(data: bytes, others: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> bytes:
    """Changes an input in one to four ways.

    Args:
        data: the input.
        others: inputs from which pieces are taken.
        words: what this reader knows, to be put in.
        rng: draws the changes.

    Returns:
        Another input of at most `LONGEST` bytes.
    """
    if rng.random() < 0.4:
        changed = _change_json(data, rng)
        if changed is not None:
            return changed[:LONGEST]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        data = rng.choice(_CHANGES)(data, others, words, rng)
    return data[:LONGEST]


def _place(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + int(rng.expovariate(0.15)))


def _flip(data: bytes, others: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _delete(data: bytes, others: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = _place(data, rng)
    return data[:start] + data[end:]


def _cut(data: bytes, others: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def _insert(data: bytes, others: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = _place(data, rng)
    end = start if rng.random() < 0.5 else end
    return data[:start] + rng.choice(words if words and rng.random() < 0.5 else WORDS) + data[end:]


def _repeat(data: bytes, others: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = _place(data, rng)
    count = rng.choice((2, 2, 3, 10, 100)) if rng.random() < 0.98 else LONGEST // max(end - start, 1)
    return data[:start] + data[start:end] * count + data[end:]


def _splice(data: bytes, others: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    (start, end), (first, last) = _place(data, rng), _place(other, rng)
    return data[:start] + (other[first:] if rng.random() < 0.3 else other[first:last] + data[end:])


_CHANGES: tuple[Callable[[bytes, Sequence[bytes], Sequence[bytes], random.Random], bytes], ...] = (
    _flip, _delete, _cut, _insert, _insert, _repeat, _splice,
)  # fmt: skip


def _change_json(data: bytes, rng: random.Random) -> bytes | None:
    """The JSON with one value, or one name, replaced; None where it is no JSON."""
    if data[:1] not in b'{["':
        return None
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        return None
    holder: Any = [root]
    top, key = holder, 0
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.85:
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    if isinstance(holder, dict) and rng.random() < 0.2:
        holder[str(rng.choice(VALUES))] = holder.pop(key)
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(top[0]).encode()
