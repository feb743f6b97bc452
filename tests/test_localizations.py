"""Every text of the page is in every language's table, with the same places to fill in; no text becomes HTML."""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import lora_ext.errors
from lora_ext.compare.axes import AXIS_KINDS
from lora_ext.message_help import message_topics, topic_explanation
from lora_ext.train.config.recipe import recipe_options
from lora_ext.train.config.suggested_recipe import KINDS_OF_CONCEPT, suggest_settings
from lora_ext.train.config.suggested_regularisation import offer_regularisation
from lora_ext.train.config.suggested_setting import TrainingSituation
from lora_ext.web.mount import LANGUAGES

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "javascript").rglob("*.mjs"))
QUOTED = r'"((?:[^"\\]|\\.)*)"'


def texts() -> set[str]:
    """What the page gives to `t`: literals, long ones in pieces; and the server's texts that it shows by `t`."""
    found: set[str] = set()
    for path in SCRIPTS:
        code = path.read_text(encoding="utf-8")
        for pieces in re.findall(rf"\bt\(\s*({QUOTED}(?:\s*\+\s*{QUOTED})*)", code):
            found.add("".join(json.loads(f'"{piece}"') for piece in re.findall(QUOTED, pieces[0])))
    for path in (ROOT / "lora_ext" / "web").glob("*.py"):  # kinds of jobs, and what they say of themselves
        code = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'\bstart\("(\w+)"', code) + re.findall(r'job\.text = "([^"]+)"', code))
    found |= {shown for _, shown in server_sentences()}
    found |= {option.help for _, option in recipe_options().values()} | {kind.title for kind in AXIS_KINDS.values()}
    return found | reasons() | option_labels() | web_ui_settings() | explanations()


def explanations() -> set[str]:
    """The troubleshooting page's sections that the dialog "What to do" shows."""
    found = [topic_explanation(topic) for topic in message_topics() if topic.section]
    said = {re.sub(r"^(\d+\.|-) ", "", text) for one in found for text in one.paragraphs()}
    return said | {one.heading for one in found}


def option_labels() -> set[str]:
    """What training options are called on the page that have no title in `form_words.mjs`."""
    code = (ROOT / "javascript" / "lora_ext" / "train" / "form_words.mjs").read_text(encoding="utf-8")
    titled = set(re.findall(r"^    (\w+): t\(", code, re.MULTILINE))
    return {name.replace("_", " ") for name in recipe_options().keys() - titled}


def web_ui_settings() -> set[str]:
    """Labels and explanations of the extension's settings, as the web UI shows them and its localization finds them."""
    found: set[str] = set()
    code = (ROOT / "lora_ext" / "host" / "a1111" / "settings.py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "OptionInfo":
                found.add(ast.literal_eval(node.args[1]))
            elif node.func.attr == "info":
                found.add(f"({ast.literal_eval(node.args[0])})")
    return found


def server_sentences(*lists_named: str) -> list[tuple[str, str]]:
    """The server's sentences that the page has words of its own for, and those words; without a name of all lists."""
    core = ROOT / "javascript" / "lora_ext" / "core"
    named = [path for name in lists_named or ("*_sentence_list.mjs",) for path in sorted(core.glob(name))]
    lists = [*named, core / "server_sentences.mjs"]
    *same, others = (re.findall(r"= \[\n(.*?)\n\];", path.read_text(encoding="utf-8"), re.DOTALL)[0] for path in lists)
    quoted = [json.loads(f'"{text}"') for text in re.findall(QUOTED, others)]
    return [(json.loads(f'"{text}"'),) * 2 for text in re.findall(QUOTED, "".join(same))] + list(
        zip(quoted[::2], quoted[1::2], strict=True)
    )


NOT_ON_THE_PAGE = (
    "api", "cli", "demo", "inject", "help_command", "message_help", "ui", "weight_curve",
    "compare/conflicts_command", "generate/blocks_command", "tools/lora_add_words", "train/data/resize_images",
    "training/control_command", "training/run_name", "training/teach_command", "web/access_guard", "web/allowed_hosts",
    "web/page_files",
)  # fmt: skip
"""What these raise is said to people at a command line, in Python or at the start; all else may reach the page."""
NO_WORDS_OF_THEIR_OWN = {
    "{0} {1} cannot be a folder: {2} is {3}; choose another name",  # at a command line only
    "{0} {1}: nothing may be written into {2}; choose another folder",
    "{0} is not a folder; give one that holds embeddings",
    "{0} is a folder; the command `merge --sd_model` writes a checkpoint as a folder",
    "{0} exists and is not a diffusers model; choose another folder",
    "a {0} has no `unet` to apply a LoRA to",
    "several processes need accelerate: pip install accelerate",
    "there are no texts in the language {0}{1}",
    "metadata_thumbnail: {0}",
    "the sample {0}",
}
"""Others of commands, and those that are a name with a sentence behind it."""


def text_pieces(node: ast.AST, *, one: bool = False) -> list[str | None] | None:
    """The pieces of a text that is filled in, None for each place; of `counted` those for many things, or for one."""
    if isinstance(node, ast.JoinedStr):
        found: list[str | None] = []
        for part in node.values:
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            found += text_pieces(inner, one=one) or [inner.value if isinstance(inner, ast.Constant) else None]
        return found
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "counted":
        said = node.args[1 if one else -1]
        what = text_pieces(said, one=one) or [str(getattr(said, "value", None))]
        return [None, " ", *what, *(["s"] if len(node.args) == 2 and not one else [])]
    return None


def text_of(node: ast.AST, *, one: bool = False) -> str | None:
    """A text of the program, with {0}, {1}, … where it is filled in; None where a node is none."""
    pieces = text_pieces(node, one=one)
    if pieces is not None:
        places = itertools.count()
        return "".join(f"{{{next(places)}}}" if piece is None else piece for piece in pieces)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def python_nodes() -> Iterator[tuple[str, ast.AST]]:
    """Every node of the program, with its module."""
    for path in (ROOT / "lora_ext").rglob("*.py"):
        module = path.relative_to(ROOT / "lora_ext").with_suffix("").as_posix()
        yield from ((module, node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_the_server_says_what_the_page_has_words_for() -> None:
    assert {sentence for sentence, _ in server_sentences()} - {text_of(node) for _, node in python_nodes()} == set()


def raised_texts() -> Iterator[tuple[str, str]]:
    """(module, text) of every error for the user that may reach the page."""
    errors = {name for name in (*vars(lora_ext.errors), "JobError") if name.endswith("Error")}
    for module, node in python_nodes():
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call) or module.startswith(NOT_ON_THE_PAGE):
            continue
        text = text_of(node.exc.args[0]) if node.exc.args and ast.unparse(node.exc.func) in errors else None
        if text and "--" not in text and re.search("[a-z]", text):
            yield module, text


def test_what_is_raised_has_words_on_the_page() -> None:
    sentences = {sentence for sentence, _ in server_sentences("[!p]*_sentence_list.mjs", "picture_sentence_list.mjs")}
    known = re.compile("|".join(re.sub(r"\\\{\d\\\}", ".*", re.escape(sentence)) for sentence in sentences))
    wordless = {
        (module, text)
        for module, text in raised_texts()
        for reason in [re.sub(r"^\{\d\}(?:(?:,| and) \{\d\})*: ", "", text)]  # names, and what is wrong with them
        if re.search("[a-z]", reason) and text not in NO_WORDS_OF_THEIR_OWN
        if not known.fullmatch(text) and not known.fullmatch(reason)
    }
    assert wordless == set(), "add each to a *_sentence_list.mjs and to localizations/, or to NOT_ON_THE_PAGE"


def reasons() -> set[str]:
    """Why settings are suggested, and the words that stand in these sentences."""
    found: set[str] = set()
    for kind in KINDS_OF_CONCEPT:
        for family, side, free in (("SD1", 64, 0.0), ("SD1", 512, 0.0), ("SDXL", 1024, 8.0), ("SDXL", 1024, 80.0)):
            for on_gpu in (False, True):
                situation = TrainingSituation(kind, 20, 2, family, side, free * 2**30, on_gpu)
                offers = [offer_regularisation(situation, "", have) for have in (0, 1000)]
                told = [*(offer.choice for offer in offers), *offers[0].settings.values()]
                one_shape = suggest_settings(replace(situation, aspect_ratio_count=1, all_square=False))
                for row in (*suggest_settings(situation).values(), *one_shape.values(), *told):
                    found |= {row.template, *(value for value in row.values if isinstance(value, str))} - {
                        "SD1",
                        "SDXL",
                    }
    code = (ROOT / "lora_ext" / "training" / "settings_for_pictures.py").read_text(encoding="utf-8")
    return found | set(re.findall(r'reason = "([^"]+)"', code))


@pytest.mark.parametrize("language", LANGUAGES)
def test_complete(language: str) -> None:
    table = json.loads((ROOT / "localizations" / f"{language}.json").read_text(encoding="utf-8"))
    assert sorted(texts() - table.keys()) == []
    for text, said in table.items():
        assert said.strip(), text
        assert sorted(re.findall(r"\{\d\}", text)) == sorted(re.findall(r"\{\d\}", said)), text


def test_texts_for_one_thing_belong_to_a_text() -> None:
    code = (ROOT / "javascript" / "lora_ext" / "core" / "singular_forms.mjs").read_text(encoding="utf-8")
    forms = re.findall(rf"^    {QUOTED}:\s+{QUOTED}", code, re.MULTILINE)
    assert forms and {text for text, _ in forms} - texts() == set()


def test_program_and_page_say_the_same_of_one_thing() -> None:
    code = (ROOT / "javascript" / "lora_ext" / "core" / "singular_forms.mjs").read_text(encoding="utf-8")
    forms = dict(re.findall(rf"^    {QUOTED}:\s+{QUOTED}", code, re.MULTILINE))
    things = "|".join(re.findall(r'\.\.\."([a-z ]+)"\.split', code)).replace(" ", "|")
    known = {sentence for sentence, _ in server_sentences()}
    said = {text: text_of(node, one=True) for _, node in python_nodes() if (text := text_of(node)) in known}
    counts = {text: one for text, one in said.items() if one != text and text is not None}
    shown = {text: re.sub(rf"(\{{\d\}} (?:{things}))e?s\b", r"\1", forms.get(text, text)) for text in counts}
    assert len(counts) > 20 and counts == shown


def test_layers_and_blocks_are_told_apart() -> None:
    words = {"ja_JP": ("ブロック", "層"), "zh_CN": ("区块", "层"), "zh_TW": ("區塊", "層")}
    for language, (block, layer) in words.items():
        table = json.loads((ROOT / "localizations" / f"{language}.json").read_text(encoding="utf-8"))
        named = {text: said for text, said in table.items() if re.search(r"\bblocks?\b", text, re.IGNORECASE)}
        wrong = {text: said for text, said in named.items() if layer in said and not re.search("layer|conv", text)}
        assert wrong == {}
        assert sum(block in said for said in named.values()) > 0.95 * len(named)


def test_text_stays_text() -> None:
    for path in SCRIPTS:
        code = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in code, f"{path.name}: {word}"


def test_style_is_ours_alone() -> None:
    """Every rule begins at our root element."""
    style = re.sub(r"/\*.*?\*/", "", (ROOT / "style.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    for line in style.splitlines():
        head = line.strip().split("{")[0].strip()
        if not line.strip().endswith("{") and "{" not in line:
            continue
        for selector in re.sub(r"\([^()]*\)", "", head).split(","):
            at = selector.strip()
            assert at.startswith(("#lora-ext", ".dark #lora-ext", "@")) or re.fullmatch(r"[\d% ]+", at), line


def test_text_has_the_size_that_the_browser_is_set_to() -> None:
    """In rem: a size in px stays as it is where someone asks the browser for larger text, but for text in a picture."""
    lines = (ROOT / "style.css").read_text(encoding="utf-8").splitlines()
    fixed = [line for line in lines if re.search(r"(font-size|@container [^{]*):[^;{]*\d(px|pt)", line)]
    assert [line.partition(" {")[0] for line in fixed] == ["#lora-ext .lx-chart text", "#lora-ext .lx-region text"]
