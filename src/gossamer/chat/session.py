"""The chat itself: reads what a person types, asks, and shows what comes back."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gossamer.chat.ask import STOPPED
from gossamer.chat.commands import Commands
from gossamer.chat.history import ChatHistory
from gossamer.serving.client.chat_stream import Reply

Tell = Callable[[str, str], None]
AskAll = Callable[[Mapping[str, dict[str, Any]], Tell], dict[str, Reply]]
"""Asks models by their bodies, and tells pieces of their replies by name."""
_BLOCK = '"""'


class Screen(Protocol):
    """Where replies are shown."""

    def begin(self, models: list[str]) -> None:
        """Expect the replies of these models."""

    def tell(self, model: str, piece: str) -> None:
        """Show a piece of a reply."""

    def end(self, replies: Mapping[str, Reply]) -> None:
        """Show what came of them."""


class Session:
    """One conversation at one screen."""

    def __init__(
        self, history: ChatHistory, ask_all: AskAll, screen: Screen, commands: Commands
    ) -> None:
        self._history = history
        self._ask_all = ask_all
        self._screen = screen
        self._commands = commands

    def talk(self, read: Callable[[str], str], tell: Callable[[str], None]) -> None:
        """Read lines by `read`, which takes the prompt that is shown, until it raises EOFError.

        `tell` shows what commands say. Ctrl-C while a line is typed gives that line up.
        """
        while True:
            try:
                text = read_message(read)
            except EOFError:
                return
            except KeyboardInterrupt:
                tell("")
                continue
            if not text.strip():
                continue
            if text.startswith("/"):
                outcome = self._commands.run(text)
                if outcome.is_over:
                    return
                if outcome.text:
                    tell(outcome.text)
                if outcome.question is None:
                    continue
                text = outcome.question
            self.ask(text)

    def ask(self, question: str) -> bool:
        """Ask all models; returns whether each of them replied."""
        models = list(self._history.models)
        bodies = {model: self._history.body(model, question) for model in models}
        self._screen.begin(models)
        replies = self._ask_all(bodies, self._screen.tell)
        self._screen.end(replies)
        # What was stopped has been said; what failed has not, and the model shall not think so.
        said = {
            model: reply.text
            for model, reply in replies.items()
            if reply.text and reply.problem in (None, STOPPED)
        }
        if said:
            self._history.add(question, said)
        return all(reply.problem is None for reply in replies.values())


def read_message(read: Callable[[str], str]) -> str:
    """A message of one line, or of several: continued by a backslash, or between triple quotes."""
    line = read("> ")
    if line.lstrip().startswith(_BLOCK):
        lines = [line.lstrip().removeprefix(_BLOCK)]
        while not lines[-1].rstrip().endswith(_BLOCK):
            lines.append(read("… "))
        lines[-1] = lines[-1].rstrip().removesuffix(_BLOCK)
        return "\n".join(lines).strip("\n")
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(read("… "))
    return "\n".join(lines)
