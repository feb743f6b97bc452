"""The route of the messages that the troubleshooting page explains."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter

from ..message_help import MessageTopic, message_topics, topic_explanation
from .app_state import AppState


@dataclass(frozen=True)
class MessageHelp:
    """What to do about a kind of message.

    Attributes:
        name: Its short name, which `python -m lora_ext help` takes too.
        phrases: What such messages say; `…` stands for what differs.
        heading: The heading of the section of the troubleshooting page that explains them.
        point: Which of its numbered points is meant; "" for all.
        paragraphs: Its paragraphs and points as plain text, points with their `1. ` or `- `.
    """

    name: str
    phrases: list[str]
    heading: str
    point: str
    paragraphs: list[str]


def message_help(topic: MessageTopic) -> MessageHelp:
    """What to do about the messages of a topic that a section explains."""
    found = topic_explanation(topic)
    return MessageHelp(topic.name, list(topic.phrases), found.heading, found.point, found.paragraphs())


def register_help_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the route."""

    @api.get("/help")
    def list_message_help() -> list[MessageHelp]:
        """The messages that the troubleshooting page explains; none where that page is not installed."""
        return [message_help(topic) for topic in message_topics() if topic.section]
