"""Shows replies as they come: one after another, or side by side in columns."""

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gossamer.chat.ask import STOPPED
from gossamer.serving.client.chat_stream import Reply

_NARROWEST = 30
"""Characters of a column; more models than fit are shown one below the other."""
_SPARE_LINES = 4


def printable(text: str) -> str:
    """`text` without what would command a terminal: a model may say anything.

    Line feeds and tabs stay; other control characters, escape among them, become a replacement
    character.
    """
    return "".join(
        "\ufffd" if unicodedata.category(char) == "Cc" and char not in "\n\t" else char
        for char in text
    )


def figures(reply: Reply) -> str:
    """What a reply took: seconds to its first word, speed, length; or what ended it."""
    parts = []
    if reply.first is not None and reply.seconds is not None:
        parts.append(f"{reply.first:.1f} s to the first word")
        if reply.tokens and reply.seconds > reply.first:
            parts.append(f"{(reply.tokens - 1) / (reply.seconds - reply.first):.0f} tokens/s")
    if reply.tokens is not None:
        parts.append("1 token" if reply.tokens == 1 else f"{reply.tokens} tokens")
    if reply.finish_reason == "length":
        parts.append("cut at max_tokens")
    if reply.problem is not None:
        parts.append(printable(reply.problem))
    return " · ".join(parts)


class PlainScreen:
    """Text and nothing else, for programs that read it."""

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = output or sys.stdout

    def begin(self, models: Sequence[str]) -> None:
        """Expect the replies of these models."""
        self._models = list(models)

    def tell(self, model: str, piece: str) -> None:
        """Take a piece of a reply; shown at once where there is but one."""
        if len(self._models) == 1:
            print(piece, end="", file=self._output, flush=True)

    def end(self, replies: Mapping[str, Reply]) -> None:
        """Show what has not been shown, and name what went wrong on standard error."""
        for model, reply in replies.items():
            if len(self._models) > 1:
                print(f"{model}:\n{reply.text}\n", file=self._output)
            elif reply.text:
                print(file=self._output)
            if reply.problem is not None:
                print(f"gossamer: {model}: {printable(reply.problem)}", file=sys.stderr)


class TerminalScreen:
    """Replies for a person: columns while they fit, and the figures of each below it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._texts: dict[str, str] = {}

    def begin(self, models: Sequence[str]) -> None:
        """Expect the replies of these models."""
        self._texts = dict.fromkeys(models, "")
        if len(self._texts) > 1:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()

    def tell(self, model: str, piece: str) -> None:
        """Show a piece of a reply."""
        self._texts[model] += printable(piece)
        if self._live is None:
            self._console.print(printable(piece), end="", markup=False, highlight=False)
        else:
            self._live.update(self._table(self._last_lines()))

    def end(self, replies: Mapping[str, Reply]) -> None:
        """Show the whole of the replies, and their figures."""
        if self._live is None:
            self._console.print()
            for reply in replies.values():
                self._console.print(Text(figures(reply), style=_style(reply)))
            return
        self._live.stop()
        self._live = None
        if self._width() is not None:
            table = self._table(self._texts)
            table.add_row(*(Text(figures(r), style=_style(r)) for r in replies.values()))
            self._console.print(table)
            return
        for model, reply in replies.items():
            self._console.print(f"[bold]{escape(model)}[/]")
            self._console.print(self._texts[model], markup=False, highlight=False)
            self._console.print(Text(figures(reply), style=_style(reply)))

    def _width(self) -> int | None:
        """Characters of a column; None if columns would be too narrow."""
        width = self._console.width // max(1, len(self._texts)) - 3
        return width if width >= _NARROWEST else None

    def _last_lines(self) -> dict[str, str]:
        """The ends of the texts that fit on the screen: what is above it could not be updated."""
        width = self._width()
        room = max(1, self._console.height - _SPARE_LINES)
        if width is None:
            room = max(1, room // len(self._texts) - 1)
            width = self._console.width
        return {
            model: "\n".join(line.plain for line in Text(text).wrap(self._console, width)[-room:])
            for model, text in self._texts.items()
        }

    def _table(self, texts: Mapping[str, str]) -> Table:
        table = Table(expand=True, show_header=self._width() is not None, border_style="dim")
        if self._width() is None:
            table.add_column()
            for model, text in texts.items():
                table.add_row(Text(model, style="bold"))
                table.add_row(Text(text))
            return table
        for model in texts:
            table.add_column(Text(model), ratio=1, overflow="fold")
        table.add_row(*(Text(text) for text in texts.values()))
        return table


def _style(reply: Reply) -> str:
    return "dim" if reply.problem in (None, STOPPED) else "red"
