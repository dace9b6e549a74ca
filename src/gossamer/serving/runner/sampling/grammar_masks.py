"""Forbids tokens with which an answer would leave its form, for all rows of a step."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossamer.serving.runner.sampling.draw import put_on


class TokenGrammar(Protocol):
    """Follows the tokens of one sequence and knows which may come next.

    Its state is that of the tokens taken so far: it stays as it is where the sequence is put back
    and computed again.
    """

    @property
    def must_end(self) -> bool:
        """Return whether an end-of-text token alone may come next; asked after `mask`."""

    def mask(self) -> NDArray[np.uint8]:
        """Return a bit for each token of the vocabulary, the first in the lowest bit of the first
        byte: 1 where it may come next. Waits while that is computed."""

    def take(self, token: int) -> bool:
        """Take in the next token; returns whether the form is complete and nothing can follow.

        Raises `RequestError` if the grammar has become too complex to be followed.
        """


def forbid_by_grammars(logits: Tensor, grammars: Sequence[TokenGrammar | None]) -> None:
    """Make the tokens of `logits` [n, vocabulary] impossible that the grammar of their row, if it
    has one, does not allow; in place. Waits for masks that are not computed yet."""
    rows = [row for row, grammar in enumerate(grammars) if grammar is not None]
    if not rows:
        return
    masks = [grammar.mask() for grammar in grammars if grammar is not None]
    width = logits.shape[1]
    if logits.device.type == "cpu":
        values = logits.numpy()
        for row, mask in zip(rows, masks, strict=True):
            allowed = np.unpackbits(mask, count=width, bitorder="little")
            np.copyto(values[row], -np.inf, where=allowed == 0)
        return
    forbid_on_device(logits, rows, np.stack(masks))


def forbid_on_device(logits: Tensor, rows: list[int], masks: NDArray[np.uint8]) -> None:
    """Do so for `rows` by their `masks` [rows, bytes], which are unpacked where the logits are."""
    packed = torch.from_numpy(masks).to(logits.device, non_blocking=True)
    shifts = torch.arange(8, device=logits.device, dtype=torch.uint8)
    bits = (packed[:, :, None] >> shifts) & 1
    forbidden = bits.view(len(rows), -1)[:, : logits.shape[1]] == 0
    if len(rows) == len(logits):
        logits.masked_fill_(forbidden, float("-inf"))
        return
    places = put_on(logits.device, rows)
    logits.index_copy_(0, places, logits[places].masked_fill_(forbidden, float("-inf")))
