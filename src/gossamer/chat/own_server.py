"""A server of the chat's own, for base models and adapter folders on this machine."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gossamer.adapters.base_name import common_base
from gossamer.adapters.layout import CONFIG_FILE
from gossamer.errors import UsageError
from gossamer.serving.client.address import served_models
from gossamer.serving.client.child_server import child_server


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a chat's own server has to serve."""

    base: str
    """Name or folder of the base model."""
    adapters: dict[str, Path]
    """Adapter folders by the names that they are served under."""
    columns: tuple[str | None, ...]
    """Whom to ask, from left to right: names of adapters; None: the base."""


def read_words(words: Sequence[str]) -> Wanted:
    """Tell base model and adapter folders apart; the base may be left to the adapters' configs.

    Raises `UsageError` for two bases, for none, and for adapters of different ones.
    """
    adapters: dict[str, Path] = {}
    columns: list[str | None] = []
    bases: list[str] = []
    for word in words:
        path = Path(word).expanduser()
        if (path / CONFIG_FILE).is_file():
            name = _free_name(path.resolve().name, adapters)
            adapters[name] = path.resolve()
            columns.append(name)
        else:
            bases.append(word)
            columns.append(None)
    if len(bases) > 1:
        raise UsageError(
            f"{bases[0]} and {bases[1]} are two base models, and a server has one; an adapter's "
            f"folder has a {CONFIG_FILE}"
        )
    base = bases[0] if bases else common_base(list(adapters.values()), remedy="name the base too")
    return Wanted(base, adapters, tuple(columns))


@contextmanager
def own_server(wanted: Wanted, options: Sequence[str] = ()) -> Iterator[tuple[str, list[str]]]:
    """Start the server; yields its address and the names of those to ask.

    `options`: more of `gossamer serve`. Raises `ServingError` if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="gossamer-chat-") as folder:
        root = Path(folder)
        for name, path in wanted.adapters.items():
            (root / name).symlink_to(path, target_is_directory=True)
        with child_server(wanted.base, root if wanted.adapters else None, options) as url:
            # The base comes first.
            base = served_models(url, None)[0]
            yield url, [base if name is None else name for name in wanted.columns]


def _free_name(name: str, taken: dict[str, Path]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found
