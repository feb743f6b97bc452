"""`python -m lora_ext help`: what to do about a message."""

from __future__ import annotations

from collections.abc import Sequence

from .command_line import CommandParser
from .console import print_text
from .message_help import explain_topic, find_topic, message_topics


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("help", "What to do about a message of the program.")
    text = "its short name, which stands under the message, or the message; without one, all are listed"
    parser.add_argument("name", nargs="*", metavar="NAME", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `help [NAME or MESSAGE]`.

    Args:
        argv: the arguments; None reads those of the program.

    Returns:
        0.

    Raises:
        LoraError: there is no such name and no help on such a message, or the page is not installed.
    """
    name = " ".join(build_parser().parse_args(argv).name)
    topics = message_topics()
    if name not in {topic.name for topic in topics}:
        found = find_topic(name)
        name = found.name if found else name
    if name or not topics:
        print_text(explain_topic(name))
    else:
        print_text("\n".join(f"{topic.name:<14}{'; '.join(topic.phrases)}" for topic in topics))
    return 0
