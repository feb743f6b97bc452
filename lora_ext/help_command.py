"""`python -m lora_ext help`: what to do about a message, and where a word is explained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .cli import CLI_COMMANDS
from .command_line import CommandParser
from .console import print_text
from .errors import LoraError
from .help_search import HelpEntry, found_lines, is_titled, nearest_word, search_help
from .message_help import (
    PAGE_NAME,
    MessageTopic,
    explain_section,
    explain_topic,
    find_topic,
    message_topics,
    page_sections,
    plain_text,
)

SECTIONS = "What to do, printed by help NAME"
_DOCS = Path(__file__).parents[1] / "docs"
_FOR_DEVELOPERS = {"BENCHMARKS.md", "DEPENDENCIES.md", "MUTATION.md", "NUMBERS.md", "RELIABILITY.md"}
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_PART = re.compile(r"^#{1,4} (.+)\n((?:(?!#{1,4} ).*\n?)*)", re.MULTILINE)


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("help", "What to do about a message of the program, or where a word is explained.")
    text = (
        "the short name that stands under the message, the message, or words such as sdxl or black picture; without "
        "one, all messages are listed"
    )
    parser.add_argument("name", nargs="*", metavar="NAME", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `help [NAME, MESSAGE or WORDS]`.

    Args:
        argv: the arguments; None reads those of the program.

    Returns:
        0.

    Raises:
        LoraError: nothing is called so, no message is like it and no word of it is known, or the page is not installed.
    """
    asked = " ".join(build_parser().parse_args(argv).name)
    topics = {topic.name: topic for topic in message_topics()}
    if not asked and topics:
        print_text("\n".join(f"{name:<14}{'; '.join(topic.phrases)}" for name, topic in topics.items()))
    elif not topics:
        print_text(explain_topic(asked))
    else:
        print_text(_answer(asked, topics))
    return 0


def _answer(asked: str, topics: dict[str, MessageTopic]) -> str:
    """What helps with a name, a message or words. Raises LoraError."""
    topic = topics.get(asked) or find_topic(asked)
    sections = list(_section_entries())
    if topic:
        also = search_help(asked, sections) if asked in topics else []
        others = [entry for entry in also if entry.name != topic.section and is_titled(asked, entry)]
        return "\n".join([explain_topic(topic.name), *_listed(others)])
    if asked in {entry.name for entry in sections}:
        return explain_section(asked)
    entries = [*sections, *_option_entries(), *_command_entries(), *_page_entries()]
    found = search_help(asked, entries)
    if not found:
        raise LoraError(
            f"no help is found for {asked[:80]!r}{nearest_word(asked, entries, topics)}; the names of messages are "
            f"{', '.join(topics)}; without a word, help lists them with the messages that each explains"
        )
    titled = [entry for entry in found if entry.kind == SECTIONS and is_titled(asked, entry)]
    if len(titled) == 1:
        others = [entry for entry in found if entry.kind != SECTIONS]
        return "\n".join([explain_section(titled[0].name), *_listed(others)])
    return "\n".join(found_lines(found))


def _listed(others: Sequence[HelpEntry]) -> Iterator[str]:
    """Further entries below a text."""
    if others:
        yield ""
        yield from found_lines(others)


def _section_entries() -> Iterator[HelpEntry]:
    """The symptoms of the troubleshooting page, each with the messages that it explains."""
    topics = message_topics()
    for name, heading, text in page_sections():
        said = (phrase for topic in topics if topic.section == name for phrase in (topic.name, *topic.phrases))
        yield HelpEntry(SECTIONS, name, heading, f"{plain_text(text)}\n{' '.join(said)}")


def _option_entries() -> Iterator[HelpEntry]:
    """The options of training."""
    from .train.config.recipe import recipe_options  # it takes seconds to import, and most help needs none of it

    for name, (_, option) in recipe_options().items():
        yield HelpEntry("Options of train", f"--{name}", option.help, " ".join(option.choices))


def _command_entries() -> Iterator[HelpEntry]:
    """The commands."""
    for command, (_, text) in CLI_COMMANDS.items():
        if command != "help":
            yield HelpEntry("Commands, with --help", command, text)


def _page_entries() -> Iterator[HelpEntry]:
    """The parts of the other pages; none where they are not installed."""
    for path in sorted([*_DOCS.glob("*.md"), *_DOCS.glob("guide/*.md")]):
        name = f"docs/{path.relative_to(_DOCS).as_posix()}"
        if name == PAGE_NAME or path.name in _FOR_DEVELOPERS or path.name.endswith(".zh.md"):
            continue
        for heading, text in _PART.findall(_FENCE.sub("", path.read_text(encoding="utf-8"))):
            yield HelpEntry("Pages", name, plain_text(heading), plain_text(text))
