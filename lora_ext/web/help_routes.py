"""The route of the messages that the troubleshooting page explains."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter

from ..message_help import explain_topic, message_topics
from .app_state import AppState


@dataclass(frozen=True)
class MessageHelp:
    """What to do about a kind of message.

    Attributes:
        name: Its short name, which `python -m lora_ext help` takes too.
        phrases: What such messages say; `…` stands for what differs.
        explanation: The section of the troubleshooting page, as plain text.
    """

    name: str
    phrases: list[str]
    explanation: str


def register_help_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the route."""

    @api.get("/help")
    def list_message_help() -> list[MessageHelp]:
        """The messages that the troubleshooting page explains; none where that page is not installed."""
        topics = [topic for topic in message_topics() if topic.section]
        return [MessageHelp(topic.name, list(topic.phrases), explain_topic(topic.name)) for topic in topics]
