"""What to do about a message, from the troubleshooting page that comes with the program."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .console import print_text
from .errors import LoraError, did_you_mean

PAGE_NAME = "docs/guide/troubleshooting.md"
_PACKAGE = Path(__file__).parent
_ROW = re.compile(r'\| <a id="m-([\w-]+)"></a>(.{1,400}?) \| (.{1,400}) \|')
_LINK = re.compile(r"\[([^\]\n]{1,200})\]\(([^)\n]{1,200})\)")
_ANCHOR = re.compile(r'<a id="[^"\n]{1,80}"></a>')


class MessageTopic(NamedTuple):
    """A row of the page's table of messages.

    Attributes:
        name: the short name that `help` takes.
        phrases: what the messages say; `…` stands for what differs.
        advice: where to look, or what to do, as plain text.
        section: the heading of the section that explains it, as a link names it; "" where `advice` is all.
    """

    name: str
    phrases: tuple[str, ...]
    advice: str
    section: str


def _page_text() -> str:
    """The page; "" where it is not installed. A wheel has it inside the package, a clone beside it."""
    for folder in (_PACKAGE / "page", _PACKAGE.parent):
        if (folder / PAGE_NAME).is_file():
            return (folder / PAGE_NAME).read_text(encoding="utf-8")
    return ""


@cache
def message_topics() -> tuple[MessageTopic, ...]:
    """The topics of the page's table, in its order, which is from special to general.

    Returns:
        The topics; none where the page is not installed.
    """
    found = []
    for name, phrases, advice in _ROW.findall(_page_text()):
        section = re.search(r"\]\(#([\w-]+)\)", advice)
        said = tuple(re.findall(r"`([^`]+)`", phrases))
        found.append(MessageTopic(name, said, plain_text(advice), section[1] if section else ""))
    return tuple(found)


def find_topic(message: str) -> MessageTopic | None:
    """The topic that explains a message.

    Args:
        message: what the program said.

    Returns:
        The first topic one of whose phrases is in the message; None where no section explains it.

    Example:
        >>> topic = find_topic("mycat changes nothing: its weight is 0")
        >>> topic.name if topic else "(the page is not installed)"
        'zero'
    """
    for topic in message_topics():
        if topic.section and any(_says(message, phrase) for phrase in topic.phrases):
            return topic
    return None


def _says(message: str, phrase: str) -> bool:
    """Whether the parts of a phrase stand in a message, one after the other."""
    place = 0
    for part in filter(None, (part.strip() for part in phrase.split("…"))):
        place = message.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


def help_hint(message: str) -> str:
    """The line that names the help of a message.

    Args:
        message: what the program said.

    Returns:
        A line with its line break in front, or "" where no section explains the message.
    """
    topic = find_topic(message)
    return f"\n  what to do: python -m lora_ext help {topic.name}" if topic else ""


def with_help(message: str) -> str:
    """A message, and the line that names its help where there is one.

    Args:
        message: what the program says.
    """
    return message + help_hint(message)


def report_error(error: LoraError) -> int:
    """Prints an error that the user can mend, and where its help is, on standard error.

    Args:
        error: the error.

    Returns:
        The exit status of the program, 2.
    """
    print_text(f"lora-ext: {with_help(str(error))}", file=sys.stderr)
    return 2


class Explanation(NamedTuple):
    """What to do about the messages of a topic, as the page's section says it.

    Attributes:
        heading: the section's heading.
        point: which of its numbered points is meant; "" for all.
        text: its text, as plain text in the page's lines.
    """

    heading: str
    point: str
    text: str

    def paragraphs(self) -> list[str]:
        """Its paragraphs and points, each in one line, points with their `1. ` or `- `."""
        parts = re.split(r"\n\n|\n(?=(?:\d+\.|-) )", self.text)
        return [" ".join(part.split()) for part in parts]


def page_sections() -> list[tuple[str, str, str]]:
    """The sections of the page: (the name that links have, heading, Markdown)."""
    found = re.findall(r"^### (.+)\n((?:(?!#).*\n)*)", _page_text(), re.MULTILINE)
    return [(_anchor(heading), heading, text) for heading, text in found]


def explain_section(name: str) -> str:
    """A section of the page as plain text.

    Args:
        name: the name that links have.

    Raises:
        LoraError: The page has no such section.
    """
    for section, heading, text in page_sections():
        if section == name:
            return f"{heading}\n\n{plain_text(text).strip()}"
    raise LoraError(f"{PAGE_NAME} has no section {name!r}")


def topic_explanation(topic: MessageTopic) -> Explanation:
    """The section that explains a topic.

    Args:
        topic: a topic that has one.

    Returns:
        The section.

    Raises:
        LoraError: The page has no such section.
    """
    for name, heading, text in page_sections():
        if name == topic.section:
            place = topic.advice.removeprefix(heading).removeprefix(heading.lower()).strip(" ,")
            return Explanation(heading, place if place.isdigit() else "", plain_text(text).strip())
    raise LoraError(f"{PAGE_NAME} has no section {topic.section!r}")


def explain_topic(name: str) -> str:
    """What to do about the messages of a topic.

    Args:
        name: a topic's name.

    Returns:
        The section of the page as plain text.

    Raises:
        LoraError: There is no such topic, or the page is not installed.
    """
    topics = {topic.name: topic for topic in message_topics()}
    if not topics:
        raise LoraError(f"{PAGE_NAME} is not installed here: see it in the project's folder")
    topic = topics.get(name)
    if topic is None:
        raise LoraError(
            f"no help is called {name!r}{did_you_mean(name, topics)}; known are {', '.join(topics)}; without a word, "
            "help lists them with the messages that each explains"
        )
    if not topic.section:
        return topic.advice
    found = topic_explanation(topic)
    where = f" (point {found.point})" if found.point else ""
    return f"{found.heading}{where}\n\n{found.text}"


def _anchor(heading: str) -> str:
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def plain_text(markdown: str) -> str:
    r"""Markdown without its marks: links by their words, no emphasis, no escapes.

    Example:
        >>> plain_text(r"**Look** at [the tag](#tag): `\<lora:a\>`")
        'Look at the tag: <lora:a>'
    """
    text = _LINK.sub(r"\1", _ANCHOR.sub("", markdown))
    return re.sub(r"\\([<>*_`\[\]])", r"\1", re.sub(r"\*\*|`|(?<![\\\w])\*(?=\S)|(?<=\S)\*(?!\w)", "", text))
