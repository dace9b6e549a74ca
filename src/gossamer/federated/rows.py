"""Rows of the clients of a simulation: read once, shared out, a file for each client."""

import json
import random
from collections.abc import Sequence
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
from gossamer.training.data.rows import BadRow
from gossamer.training.data.source import open_source

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

    def write(self, folder: Path) -> list[Path]:
        """Write a file for each client into `folder`, and one of the rows held out; the paths of
        the clients'."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.held_out:
            _write(folder / HELD_OUT, self.held_out)
        paths = [folder / f"client-{number}.jsonl" for number in range(len(self.clients))]
        for path, rows in zip(paths, self.clients, strict=True):
            _write(path, rows)
        return paths


def share_rows(settings: FederatedSettings) -> SharedRows:
    """Read the rows of `settings` and share them out; the same settings and file, the same shares.

    Raises `DataError` for rows that cannot be read, and `SettingError` for a split that does not
    fit them.
    """
    rows = _read(settings)
    chosen = set(_held_out(len(rows), settings))
    held_out = [row for number, row in enumerate(rows) if number in chosen]
    rows = [row for number, row in enumerate(rows) if number not in chosen]
    split, clients = parse_split(settings.split), settings.clients or DEFAULT_CLIENTS
    if split.kind == "column":
        shares = split_by_value(_column(rows, split.column, settings))
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
                _column(rows, settings.split_by or "", settings),
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
    return SharedRows([[rows[n] for n in part] for part in parts], names, held_out)


def _read(settings: FederatedSettings) -> list[dict[str, Any]]:
    source = open_source(settings.data, max_rows=settings.max_rows)
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(source.rows):
        if settings.max_rows is not None and number >= settings.max_rows:
            break
        if not isinstance(row, BadRow):
            rows.append(dict(row.values))
        elif not settings.skip_bad_rows:
            raise DataError(
                f"{source.where(row.number)}: {row.reason}; mend the row, or leave such rows out "
                "with --skip-bad-rows"
            )
    if not rows:
        raise DataError(f"'{settings.data}' has no usable row")
    return rows


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


def _column(rows: Sequence[dict[str, Any]], name: str, settings: FederatedSettings) -> list[str]:
    for number, row in enumerate(rows, start=1):
        if name not in row:
            raise SettingError(
                f"'{settings.data}', row {number}: {unknown_name_message('column', name, row)}"
            )
    return [str(row[name]) for row in rows]


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    # As escapes, half a character can be written too; who reads the row judges it.
    lines = (json.dumps(row, default=str) for row in rows)
    write_whole(path, "".join(f"{line}\n" for line in lines))
