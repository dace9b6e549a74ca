"""Judges what a client sends back before anything is made of it."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gossamer.errors import TrainingError
from gossamer.federated.client import ClientReply

_MOST_ROWS = 2**53
"""Above it numbers of rows are not exact as weights."""


def check_reply(
    reply: ClientReply, asked: Mapping[str, Tensor], *, rows: int | None = None
) -> None:
    """Raise `TrainingError` unless the reply is one that a round can be made of.

    `asked` are the tensors that were to learn, in the shapes of the client's rank. `rows` is how
    many rows the client has, where that is known; it may leave some out, but has no more.
    """
    _check_names(reply.tensors, asked)
    for name, tensor in reply.tensors.items():
        wanted = asked[name].shape
        if tensor.shape != wanted:
            raise TrainingError(
                f"its reply has '{name}' in shape {list(tensor.shape)} instead of {list(wanted)}; "
                "give the client the settings of the server"
            )
        if not tensor.is_floating_point():
            raise TrainingError(
                f"its reply has '{name}' as {tensor.dtype}; give the client the server's release"
            )
        if not torch.isfinite(tensor).all():
            raise TrainingError(
                f"its reply has a number in '{name}' that is not finite; lower learning_rate"
            )
    most = _MOST_ROWS if rows is None else rows
    if not _is_count(reply.rows) or reply.rows > most:
        known = "" if rows is None else f" to {rows}, which is what it has"
        raise TrainingError(
            f"its reply tells {reply.rows!r} rows; it must be a whole number from 1{known}"
        )
    if not _is_count(reply.steps):
        raise TrainingError(
            f"its reply tells {reply.steps!r} steps; it must be a whole number from 1"
        )
    if not isinstance(reply.loss, float | int) or not math.isfinite(reply.loss):
        raise TrainingError(f"its reply tells a loss of {reply.loss!r}; lower learning_rate")


def _check_names(found: Mapping[str, Tensor], asked: Mapping[str, Tensor]) -> None:
    for what, names in (("lacks", asked.keys() - found), ("has", found.keys() - asked)):
        if names:
            raise TrainingError(
                f"its reply {what} '{min(names)}' (of {len(names)} such tensors), which was "
                f"{'' if what == 'lacks' else 'not '}to learn; give the client the settings of "
                "the server"
            )


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1
