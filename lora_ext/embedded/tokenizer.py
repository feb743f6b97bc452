"""A small byte-pair vocabulary in CLIP's format, learned from the captions' words and common English ones."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from .shapes import ALL_SHAPES, SHAPE_COLOURS, SHAPE_SIZES

START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"
MERGE_COUNT = 510

# Words of captions, present and to come, each worth a token of its own.
CAPTION_WORDS = [
    *SHAPE_COLOURS, *ALL_SHAPES, *SHAPE_SIZES, "plain", "striped", "outlined",
    *"a an the of on in with and background ground picture photo painting drawing style shape".split(),
    *"pink orange brown grey moon arrow hexagon dotted night glowing soft dark bright".split(),
]  # fmt: skip
COMMON_WORDS = """
about above across after again air all also always among animal answer any arm art as ask at away baby back ball
be bear beautiful bed before behind best better between big bird black blue board boat body book both box boy
brother build busy but by call can car carry cat center change child city clean clear close cloud cold color come
cook cool corner could country cut day deep desk detail did dinner do dog door down dream dress drink drive each
ear early earth east eat edge egg end every eye face fall family far fast father feel few field find fine fire
first fish five flat floor flower fly follow food foot for forest four free friend from front fruit full game
garden gave girl give glass go gold good grass great grow hair half hand happy hard hat have he head hear heat
help her here high hill him his hold home horse hot house how hundred ice if image inside into iron is island it
jump just keep kind king kitchen know lady lake land last late laugh leaf learn left leg letter life light like
line lion listen little live long look love low made make man many map mark may me mean metal middle milk mind
money more morning most mother mountain mouth move much music must my name near new next no north not now number
ocean off office often old one only open or other our out outside over own page paper part path people person
piece place plain plan plant play point poor press quick quiet rain reach read ready rest rice rich right river
road rock room root rope rose round run sad said sail salt same sand school sea seat second see seed seem sell
send set seven shadow sharp she sheep ship shirt shoe shop short should show side silver simple sing sister sit
six skin sky sleep slow smile smooth snow so soft soil some song soon sound south space speak spring stand start
stay step stone stop story street strong such sugar summer sun sure swim table take talk tall teach tell ten test
than that their them then there these they thick thin thing think this three through time to today together too
top town train travel tree true turn two under up us use very view voice wait walk wall want war warm was wash
watch water wave way we wear weather week well west what wheel when where which while who why wide wild will wind
window wing winter wish woman wood word work world would write year yes you young
""".split()


def byte_alphabet() -> list[str]:
    """One printable character for each of the 256 bytes, as GPT-2 and CLIP vocabularies write them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def learn_merges(counts: dict[str, int], limit: int) -> list[tuple[str, str]]:
    """The `limit` pairs byte-pair encoding joins, in order, for words that occur so many times."""
    words = {(*word[:-1], word[-1] + "</w>"): count for word, count in counts.items()}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, count in words.items():
            for pair in pairwise(parts):
                pairs[pair] += count
        if not pairs:
            break
        # Ties are broken by the pair itself, so that the vocabulary is the same every time.
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {_join(parts, best): count for parts, count in words.items()}
    return merges


def _join(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


def write_tokenizer(folder: Path) -> int:
    """Write vocab.json, merges.txt and the two configurations CLIPTokenizer reads; return the vocabulary's size."""
    # A caption word weighs more than all the common ones together, so each becomes one token.
    counts = Counter(COMMON_WORDS) + Counter({word: 1000 for word in CAPTION_WORDS if word})
    merges = learn_merges(counts, MERGE_COUNT)
    letters = byte_alphabet()
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    tokens = [*dict.fromkeys(tokens), START_TOKEN, END_TOKEN]
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: i for i, token in enumerate(tokens)}
    _write(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False, indent=0))
    _write(folder / "merges.txt", "\n".join(["#version: 0.2", *map(" ".join, merges)]))
    special = {"bos_token": START_TOKEN, "eos_token": END_TOKEN, "unk_token": END_TOKEN, "pad_token": END_TOKEN}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True} | special
    _write(folder / "special_tokens_map.json", json.dumps(special, indent=2))
    _write(folder / "tokenizer_config.json", json.dumps(settings, indent=2))
    return len(tokens)


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")
