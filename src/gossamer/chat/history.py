"""What has been said: the questions of a person, and what each model replied."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from gossamer.settings import Settings


class ChatSettings(Settings):
    """What is asked of the models with every message."""

    system: str | None = None
    """System prompt: what the models are told before the conversation."""
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    """0: always the likeliest token; higher: more varied. Unset: the server's default."""
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    """Draw from the likeliest tokens that have this probability together. Unset: the server's
    default."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest reply, in tokens. Unset: the server's default."""
    seed: int | None = None
    """Replies with the same seed are the same. Unset: the server draws one."""


@dataclass(slots=True)
class Turn:
    """A question, and the replies by the names of the models that gave one."""

    question: str
    replies: dict[str, str] = field(default_factory=dict)


class ChatHistory:
    """The turns so far, seen by each model as its own conversation."""

    def __init__(self, models: Sequence[str], settings: ChatSettings) -> None:
        self.models = list(models)
        """Who is asked, from left to right."""
        self.settings = settings
        self.turns: list[Turn] = []

    def body(self, model: str, question: str) -> dict[str, Any]:
        """The body of a chat completion that asks `model`.

        A model sees what it has replied to itself: one that joined later, or failed once, has never
        heard the questions before, and a history without its replies would not be its own.
        """
        messages = []
        if self.settings.system:
            messages.append({"role": "system", "content": self.settings.system})
        for turn in self.turns:
            if model in turn.replies:
                messages.append({"role": "user", "content": turn.question})
                messages.append({"role": "assistant", "content": turn.replies[model]})
        messages.append({"role": "user", "content": question})
        sampling = self.settings.model_dump(exclude={"system"}, exclude_none=True)
        return {"model": model, "messages": messages, **sampling}

    def add(self, question: str, replies: dict[str, str]) -> None:
        """Keep a turn."""
        self.turns.append(Turn(question, replies))

    def take_back(self) -> str | None:
        """Forget the last turn, and return its question; None if there is none."""
        return self.turns.pop().question if self.turns else None

    def as_markdown(self) -> str:
        """The conversation for people: a heading for each who speaks."""
        parts = [] if not self.settings.system else [f"## System\n\n{self.settings.system}\n"]
        for turn in self.turns:
            parts.append(f"## You\n\n{turn.question}\n")
            parts += [f"## {model}\n\n{reply}\n" for model, reply in turn.replies.items()]
        return "\n".join(parts)
