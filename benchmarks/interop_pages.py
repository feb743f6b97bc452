"""The tables of `interop.py` in docs/INTEROP.md and docs/MULTIPLIERS.md, and the same in Chinese in their `.zh.md`.

python benchmarks/interop_pages.py   # makes the Chinese tables again from those of the English pages
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("INTEROP", "MULTIPLIERS")
CHINESE = {
    r"output": "输出文件",
    r"multiplier": "倍率",
    r"exact": "一致",
    r"not read": "读不了",
    r"not read \((\w+)\)": r"读不了（\1）",
    r"(\S+) off": r"误差 \1",
    r"exact; (\d+) of (\d+) layers not read": r"一致；\2 层中有 \1 层读不了",
    r"(\S+) off; (\d+) of (\d+) layers not read": r"误差 \1；\3 层中有 \2 层读不了",
    r"train: LierLa": "train：LierLa",
    r"train: C3Lier \(conv_dim and conv_alpha of its own\)": "train：C3Lier（自己的 conv_dim 和 conv_alpha）",
    r"merge \(concat\), ranks mixed": "merge（concat），秩不同",
    r"resize, dynamic": "resize，动态秩",
    r"reweight \(block weights in the alphas\)": "reweight（区块权重写在 alpha 里）",
    r"DoRA, a number for each output": "DoRA，每个输出一个数",
    r"DoRA, a number for each input": "DoRA，每个输入一个数",
    r"DoRA, (convert --to \w+)": r"DoRA，\1",
    r"OFT of kohya \((.+)\)": r"kohya 的 OFT（\1）",
    r"OFT of LyCORIS": "LyCORIS 的 OFT",
    r"OFT of LyCORIS with rescale": "LyCORIS 的 OFT，带 rescale",
    r"([\w.-]+|convert --to \w+)": r"\1",  # names and numbers stay
}
"""The whole of a cell → in Chinese; the first that fits."""


def chinese(cell: str) -> str:
    """A cell of the tables in Chinese. Raises ValueError for words that have none here yet."""
    for pattern, words in CHINESE.items():
        if found := re.fullmatch(pattern, cell):
            return found.expand(words)
    raise ValueError(f"{cell!r} has no Chinese: add it to CHINESE in benchmarks/interop_pages.py")


def find_table(page: str) -> tuple[str, str, str]:
    """A page of docs: what stands before the table that `interop.py` makes, the table, what follows."""
    text = (DOCS / page).read_text(encoding="utf-8")
    head = rf"^\| (?:output|{CHINESE['output']}) \|"
    before, table, after = re.split(rf"({head}.*\n(?:\|.*\n)+)", text, flags=re.MULTILINE)
    return before, table, after


def write_table(page: str, rows: Sequence[Sequence[str]]) -> None:
    """Replaces a page's table. rows: the first is the head."""
    before, _, after = find_table(page)
    head, *others = ("| " + " | ".join(row) + " |\n" for row in rows)
    dashes = "|" + " --- |" * len(rows[0]) + "\n"
    (DOCS / page).write_text("".join([before, head, dashes, *others, after]), encoding="utf-8", newline="\n")


def chinese_rows(name: str) -> list[list[str]]:
    """The head and rows of a page's table in Chinese."""
    head, _, *rows = find_table(f"{name}.md")[1].splitlines()
    return [[chinese(cell.strip()) for cell in row.strip("|").split("|")] for row in (head, *rows)]


def write_pages(versions: str, tables: Sequence[Sequence[Sequence[str]]]) -> None:
    """Puts what was measured into all pages. versions: of the programs. tables: head and rows for each of `PAGES`."""
    for name, rows in zip(PAGES, tables, strict=True):
        write_table(f"{name}.md", rows)
    today = datetime.date.today().isoformat()
    for page, made, label in (("INTEROP.md", "Made on ", "Versions: "), ("INTEROP.zh.md", "测于 ", "版本：")):
        text = (DOCS / page).read_text(encoding="utf-8")
        text = re.sub(rf"^({label}).*", rf"\g<1>{versions}", text, flags=re.MULTILINE)
        text = re.sub(rf"({made})[\d-]+", rf"\g<1>{today}", text)
        (DOCS / page).write_text(text, encoding="utf-8", newline="\n")
    main()


def main() -> None:
    """Makes the Chinese tables from the English ones."""
    for name in PAGES:
        write_table(f"{name}.zh.md", chinese_rows(name))


if __name__ == "__main__":
    main()
