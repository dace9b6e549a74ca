"""Shares out rows among clients: evenly, by a Dirichlet draw of their classes, or by a column."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gossamer.errors import SettingError

KINDS = ("iid", "dirichlet:ALPHA", "column:NAME")
_REDRAWS = 1000


@dataclass(frozen=True, slots=True)
class Split:
    """How rows are shared out."""

    kind: Literal["iid", "dirichlet", "column"]
    alpha: float = 0.0
    """Concentration of the Dirichlet draw: small means few classes per client."""
    column: str = ""
    """The column whose every value is a client."""


def parse_split(text: str) -> Split:
    """Read `iid`, `dirichlet:0.1` or `column:NAME`; raises `SettingError`."""
    kind, sign, value = text.partition(":")
    if kind == "iid" and not sign:
        return Split("iid")
    if kind == "column" and value:
        return Split("column", column=value)
    if kind == "dirichlet":
        try:
            alpha = float(value)
        except ValueError:
            alpha = 0.0
        if 0 < alpha < float("inf"):
            return Split("dirichlet", alpha=alpha)
        raise SettingError(
            f"split '{text}': give a positive number behind the colon, such as dirichlet:0.1"
        )
    raise SettingError(f"split '{text}' is none of {', '.join(KINDS)}")


def split_evenly(count: int, clients: int, seed: int) -> list[list[int]]:
    """Deal `count` rows at random, sizes differing by one at most; numbers of rows, ascending."""
    order = np.random.default_rng(seed).permutation(count)
    return [sorted(part.tolist()) for part in np.array_split(order, clients)]


def split_by_dirichlet(
    classes: Sequence[str], clients: int, *, alpha: float, seed: int, min_rows: int
) -> list[list[int]]:
    """Deal the rows of each class in proportions drawn from a Dirichlet distribution.

    `classes` has the class of each row. The draw is repeated until each client has `min_rows` rows;
    raises `SettingError` if that does not come about.
    """
    generator = np.random.default_rng(seed)
    labels = np.asarray(classes)
    of_class = [np.flatnonzero(labels == label) for label in sorted(set(classes))]
    for _ in range(_REDRAWS):
        parts: list[list[int]] = [[] for _ in range(clients)]
        for rows in of_class:
            shares = generator.dirichlet([alpha] * clients)
            ends = np.rint(np.cumsum(shares)[:-1] * len(rows)).astype(int)
            dealt = np.split(generator.permutation(rows), ends)
            for part, own in zip(parts, dealt, strict=True):
                part.extend(own.tolist())
        if min(map(len, parts)) >= min_rows:
            return [sorted(part) for part in parts]
    raise SettingError(
        f"split dirichlet:{alpha:g}: in {_REDRAWS} draws of {len(labels)} rows of {len(of_class)} "
        f"classes among {clients} clients, one always had fewer than min_client_rows={min_rows}; "
        "take a larger number behind the colon, fewer clients, or fewer rows at least"
    )


def split_by_value(values: Sequence[str]) -> dict[str, list[int]]:
    """Give each value a client of its own, in the order of their names."""
    parts: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        parts.setdefault(value, []).append(number)
    return {value: parts[value] for value in sorted(parts)}
