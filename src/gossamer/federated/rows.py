"""Rows of the clients of a simulation: read and sifted once, shared out, a file for each client."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.errors import DataError, SettingError, unknown_name_message
from gossamer.federated.settings import FederatedSettings
from gossamer.federated.split import (
    parse_split,
    split_by_dirichlet,
    split_by_value,
    split_evenly,
)
from gossamer.files import write_whole
from gossamer.training.data import DataReport, read_rows
from gossamer.training.data.rows import Row, Source

DEFAULT_CLIENTS = 4
HELD_OUT = "held-out.jsonl"


@dataclass(frozen=True, slots=True)
class SharedRows:
    """The rows of all clients, as they were read."""

    clients: list[list[dict[str, Any]]]
    names: list[str]
    """What the clients are called in messages."""
    held_out: list[dict[str, Any]]
    """Rows that no client has; empty: there are none, or they have a file of their own."""
    report: DataReport
    """About the rows before they were shared out."""

    def write(self, folder: Path) -> list[Path]:
        """Write a file for each client into `folder`, and one of the rows held out; the paths of
        the clients'."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.held_out:
            _write(folder / HELD_OUT, self.held_out)
        paths = self._paths(folder)
        for path, rows in zip(paths, self.clients, strict=True):
            _write(path, rows)
        return paths

    @contextmanager
    def told_by_name(self, folder: Path) -> Iterator[None]:
        """Tell a `DataError` inside by the client whose file in `folder` it is about: the file may
        be gone when the error is read."""
        try:
            yield
        except DataError as error:
            told = str(error)
            who = [(folder / HELD_OUT, "the held-out rows")]
            paths = self._paths(folder)
            who += [(p, f"client {name}") for p, name in zip(paths, self.names, strict=True)]
            for path, name in who:
                told = told.replace(f"'{path}'", name).replace(str(path), name)
            raise DataError(told) from error

    def _paths(self, folder: Path) -> list[Path]:
        return [folder / f"client-{number}.jsonl" for number in range(len(self.clients))]


def share_rows(settings: FederatedSettings, tokenizer: Any) -> SharedRows:
    """Read the rows of `settings` and share them out; the same settings and file, the same shares.

    Rows are checked, and those of `leave_out` left out, before they are shared out: what is wrong
    with one is told by its place in the user's file, and a row may repeat one of another client.
    Raises `DataError` for rows that cannot be used, and `SettingError` for a split that does not
    fit them.
    """
    source, rows, report = read_rows(settings, tokenizer)
    chosen = set(_held_out(len(rows), settings))
    held_out = [row for number, row in enumerate(rows) if number in chosen]
    rows = [row for number, row in enumerate(rows) if number not in chosen]
    split, clients = parse_split(settings.split), settings.clients or DEFAULT_CLIENTS
    if split.kind == "column":
        shares = split_by_value(_column(rows, split.column, source))
        if settings.clients not in (None, len(shares)):
            raise SettingError(
                f"clients={settings.clients}: column '{split.column}' has {len(shares)} values, "
                "each of which is a client; leave clients out"
            )
        names, parts = list(shares), list(shares.values())
    else:
        names = [str(number) for number in range(clients)]
        if clients * settings.min_client_rows > len(rows):
            raise SettingError(
                f"clients={clients}: {len(rows)} rows do not give each "
                f"min_client_rows={settings.min_client_rows}; take fewer clients"
            )
        if split.kind == "iid":
            parts = split_evenly(len(rows), clients, settings.seed)
        else:
            parts = split_by_dirichlet(
                _column(rows, settings.split_by or "", source),
                clients,
                alpha=split.alpha,
                seed=settings.seed,
                min_rows=settings.min_client_rows,
            )
    small = min(range(len(parts)), key=lambda number: len(parts[number]))
    if len(parts[small]) < settings.min_client_rows:
        raise SettingError(
            f"client '{names[small]}' has {len(parts[small])} rows, fewer than min_client_rows="
            f"{settings.min_client_rows}; lower that, or split in another way"
        )
    shared = [[rows[n].values for n in part] for part in parts]
    return SharedRows(shared, names, [row.values for row in held_out], report)


def _held_out(count: int, settings: FederatedSettings) -> Sequence[int]:
    wanted = settings.eval_split
    if not wanted:
        return []
    size = max(1, int(wanted) if wanted >= 1 else round(count * wanted))
    if size >= count:
        raise DataError(
            f"'{settings.data}' has {count} usable rows; eval_split={wanted} would leave none to "
            "train on"
        )
    return random.Random(settings.seed).sample(range(count), size)


def _column(rows: Sequence[Row], name: str, source: Source) -> list[str]:
    for row in rows:
        if name not in row.values:
            problem = unknown_name_message("column", name, row.values)
            raise SettingError(f"{source.where(row.number)}: {problem}")
    return [str(row.values[name]) for row in rows]


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    # As escapes, half a character can be written too; who reads the row judges it.
    lines = (json.dumps(row, default=str) for row in rows)
    write_whole(path, "".join(f"{line}\n" for line in lines))
