"""What to do about a message: the troubleshooting page's table and sections, on the command line and as a route."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from lora_ext import cli, message_help
from lora_ext.block_weights import parse_block_weights
from lora_ext.errors import BlockError, LoraError, did_you_mean
from lora_ext.fit_report import FitReport
from lora_ext.generate import GenerationReport, Settings, generate_command
from lora_ext.layer_names import LayerId
from lora_ext.lora_tags import parse_lora_tags
from lora_ext.message_help import explain_topic, find_topic, help_hint, message_topics, report_error
from lora_ext.prompt_warnings import tag_warnings


def test_every_row_of_the_page_is_a_topic_with_a_text() -> None:
    page = (Path(__file__).parents[1] / message_help.PAGE_NAME).read_text(encoding="utf-8")
    topics = message_topics()
    assert len(topics) == page.count('<a id="m-') >= 24
    for topic in topics:
        text = explain_topic(topic.name)
        assert topic.phrases and not set("*`") & set(text) and "](" not in text
        assert len(text.splitlines()) >= 3 if topic.section else len(text) > 40


def test_a_message_finds_its_topic() -> None:
    for topic in message_topics():
        for phrase in topic.phrases:
            found = find_topic(phrase.replace("…", "'a b'"))
            assert (found.name if found else "") == (topic.name if topic.section else "")
    assert find_topic("something else") is None and help_hint("something else") == ""
    assert help_hint("no LoRA is called 'a'; did you mean 'b'?") == "\n  what to do: python -m lora_ext help name"


def test_every_message_that_the_page_quotes_has_its_section_as_help() -> None:
    page = (Path(__file__).parents[1] / message_help.PAGE_NAME).read_text(encoding="utf-8")
    sections = re.findall(r"^### (.+)\n((?:(?!#).*\n)*)", page, re.MULTILINE)
    quoted = [(re.sub(r"\W+", "-", heading.lower()), text) for heading, body in sections for text in italics(body)]
    quoted = [(section, text) for section, text in quoted if section != "the-tab-is-missing"]  # on the console only
    messages = [
        (section, text) for section, text in quoted if " " in text and not text.startswith(("No module", "Lora"))
    ]
    topics = [(section, text, find_topic(text)) for section, text in messages]
    assert [(section, text) for section, text, topic in topics if not topic or topic.section != section] == []
    assert len(topics) > 40


def italics(text: str) -> list[str]:
    """What a Markdown text has between single asterisks."""
    found = re.findall(r"(?<!\*)\*(?!\*)([^*]+)\*(?!\*)", text)
    return [" ".join(one.split()).replace("\\", "") for one in found]


def test_the_command_line_names_the_help_and_shows_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"")
    assert cli.main(["inspect", str(damaged)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "is empty" in lines[0] and lines[1:] == ["  what to do: python -m lora_ext help file"]
    assert cli.main(["help", "file"]) == 0
    assert "git-lfs pointer" in capsys.readouterr().out
    for message in (["lora-ext: x.safetensors is empty (0 bytes)"], "x.safetensors is empty (0 bytes)".split()):
        assert cli.main(["help", *message]) == 0
        assert "git-lfs pointer" in capsys.readouterr().out
    assert cli.main(["help"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {t.name for t in message_topics()}
    assert cli.main(["help", "memroy"]) == 2
    told = capsys.readouterr().err
    assert "did you mean 'memory'?" in told and "without a word, help lists them with the messages" in told


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ("sdxl", ["Made for SDXL", "Nothing can convert", "--text_encoder_2_lr"]),
        ("SD1", ["made-for-sdxl"]),
        ("forge", ["out-of-memory ", "docs/webui.md"]),
        ("nan", ["Black picture (point 2)", "loss-is-nan"]),
        ("oom", ["out-of-memory ", "out-of-memory-in-training", "--gradient_checkpointing"]),
        ("why is my image black?", ["no-half-vae"]),
        ("dora", ["--dora_wd", "docs/tags.md"]),
        ("min_snr_gamma", ["--min_snr_gamma"]),
        ("resize", ["change the rank of a LoRA"]),
        ("loss-is-nan", ["The learning rate is too high"]),
    ],
)
def test_help_is_found_by_the_words_that_users_type(
    asked: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["help", *asked.split()]) == 0
    told = capsys.readouterr().out
    assert [part for part in parts if part not in told] == []


def test_an_unknown_word_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for asked, near in (("sdlx", "sdxl"), ("blakc", "black")):
        assert cli.main(["help", asked]) == 2
        told = capsys.readouterr().err
        assert f"no help is found for '{asked}'; did you mean '" in told and near in told.partition("did you mean")[2]


def test_what_users_meet_most_in_generate_has_its_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file for another model was told without help, and one that fits, but for block weights, with a wrong one."""
    layer = LayerId("unet", "IN01", "attn1.to_q")
    misfit, partly = FitReport("a", "SDXL", unmatched=(layer,) * 2), FitReport("a", "SDXL", 2, (layer,))
    damaged, whole = FitReport("a", "SD1", 2, damaged=1), FitReport("a", "SD1", 2, blocks_without_weight=("IN01",))
    for fit, name in ((misfit, "fit"), (partly, "fit"), (damaged, "file"), (whole, "")):
        topic = find_topic(str(fit))
        assert (topic.name if topic else "") == name, str(fit)
    for tag in ("<lora:a:1:step=x>", "<lora:a:1:start=x>", "<lora:a:1:lbx=1>", "<lora:a:x>"):
        (error,) = parse_lora_tags(tag)[2]
        assert "help number" in help_hint(str(error)), error
    for weights in ("1,2", "NOPE", "0.5"):
        with pytest.raises(BlockError) as wrong:
            parse_block_weights(weights)
        assert "help number" in help_hint(str(wrong.value)), wrong.value
    assert "help text" in help_hint("".join(tag_warnings("a <loar:cat:1>")))
    assert "help steps" in help_hint("a: its U-Net part never acts, because it starts after the last step")

    def generate(settings: Settings, *, report: GenerationReport, **_: object) -> list[Image.Image]:
        report.fits.append(misfit)
        return []

    monkeypatch.setattr(generate_command, "generate", generate)
    assert cli.main(["generate", "--prompt", "a"]) == 0
    assert capsys.readouterr().err.splitlines() == [str(misfit), "  what to do: python -m lora_ext help fit"]


def test_known_names_stand_in_one_line_and_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(LoraError("no x" + did_you_mean("x", ["evil\x1b[31m\nred\u202e", "日本"])))
    assert capsys.readouterr().err == "lora-ext: no x; known: evil\\u001b[31m red\\u202e, 日本\n"


def test_an_error_about_a_file_commands_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "--json", str(tmp_path / "red\x1b[31m\u202e.safetensors")]) == 2
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err and "\u202e" not in told.out + told.err
    assert report_error(LoraError("a\x1b[2J\tb\nc\u202e")) == 2
    assert capsys.readouterr().err == "lora-ext: a\\u001b[2J\tb\nc\\u202e\n"


def test_without_the_page_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_help, "_PACKAGE", Path("/nowhere/lora_ext"))
    message_topics.cache_clear()
    try:
        assert message_topics() == () and help_hint("no LoRA is called 'a'; did you mean 'b'?") == ""
        with pytest.raises(LoraError, match="is not installed here"):
            explain_topic("name")
    finally:
        monkeypatch.undo()
        message_topics.cache_clear()
