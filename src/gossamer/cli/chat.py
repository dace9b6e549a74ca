"""Talk to models in the terminal: replies stream, several models answer side by side.

gossamer chat smollm2-135m                       a base model
gossamer chat runs/pirate                        an adapter, on the base that its config names
gossamer chat smollm2-135m runs/pirate runs/chef the base and two adapters, in three columns
gossamer chat --url http://127.0.0.1:8000 pirate a model of a server that runs already
gossamer chat                                    what a server on this machine serves
echo "Who are you?" | gossamer chat runs/pirate  one message, one reply, nothing else

All models answer the same message in one batch, and each goes on with its own replies. Without
--url a server is started for the chat, and stopped after it. /help lists the commands of the chat.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from gossamer.chat.history import ChatSettings
from gossamer.cli.parts.options import Options
from gossamer.errors import ServingError, UsageError
from gossamer.serving.settings import ServeSettings

if TYPE_CHECKING:
    from gossamer.chat.session import Session

KEY_VARIABLE = "GOSSAMER_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"
_MOST_AT_ONCE = 3
"""Models that are asked when none is named."""
CHAT = Options(ChatSettings, title="replies")
SERVER = Options(
    ServeSettings,
    title="the server started for the chat",
    names={"memory_gib": "memory"},
    metavars={"memory_gib": "GiB"},
    fields=("device", "dtype", "backend", "quantization", "memory_gib"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="base model or adapter folder; with --url a name that the server lists",
    )
    parser.add_argument("--url", help="address of a running server")
    parser.add_argument("--api-key", metavar="KEY", help=f"of the server; default: ${KEY_VARIABLE}")
    CHAT.add_to(parser)
    SERVER.add_to(parser)


def run(args: argparse.Namespace) -> int:
    """Chat until the person leaves; for a program that writes to it, answer once."""
    settings = CHAT.read(args)
    key = args.api_key or os.environ.get(KEY_VARIABLE)
    with _server(args, key) as (url, models):
        from gossamer.chat.ask import ask_all
        from gossamer.chat.commands import Commands
        from gossamer.chat.history import ChatHistory
        from gossamer.chat.screen import PlainScreen, TerminalScreen
        from gossamer.chat.session import Session
        from gossamer.serving.client.address import served_models

        history = ChatHistory(models, settings)
        commands = Commands(history, partial(served_models, url, key))
        ask = partial(ask_all, url, key)
        if not sys.stdin.isatty():
            session = Session(history, ask, PlainScreen(), commands)
            message = sys.stdin.read().strip()
            if not message:
                raise UsageError("standard input has no message")
            return 0 if session.ask(message) else 1
        from rich.console import Console

        console = Console(highlight=False)
        _talk(Session(history, ask, TerminalScreen(console), commands), models)
    return 0


def _talk(session: "Session", models: list[str]) -> None:
    # Gives `input` the arrow keys and a history.
    import readline  # noqa: F401

    print(f"gossamer: asking {', '.join(models)}; /help lists the commands, Ctrl-D ends")
    session.talk(input, print)
    print()


@contextmanager
def _server(args: argparse.Namespace, key: str | None) -> Iterator[tuple[str, list[str]]]:
    """The address to talk to, and whom to ask there."""
    from gossamer.serving.client.address import served_models

    given = SERVER.given(args)
    if (args.url or not args.models) and given:
        option = SERVER.option(next(iter(given)))
        raise UsageError(f"{option} is for a server of the chat's own; {_target(args)} is running")
    if args.url or not args.models:
        url = args.url or DEFAULT_URL
        try:
            listed = served_models(url, key)
        except ServingError as error:
            if args.url:
                raise
            raise UsageError(
                f"name a model, such as `gossamer chat smollm2-135m`: no server answers at {url}"
            ) from error
        missing = [name for name in args.models if name not in listed]
        if missing:
            raise UsageError(
                f"the server does not list {', '.join(missing)}; it has {', '.join(listed[:8])}"
            )
        yield url, args.models or listed[:_MOST_AT_ONCE]
        return
    from gossamer.chat.own_server import own_server, read_words

    wanted = read_words(args.models)
    options = [word for name, value in given.items() for word in (SERVER.option(name), str(value))]
    if sys.stderr.isatty():
        print(f"gossamer: starting a server for {wanted.base} …", file=sys.stderr)
    with own_server(wanted, options) as found:
        yield found


def _target(args: argparse.Namespace) -> str:
    return args.url or f"the one at {DEFAULT_URL}"
