"""Which tokens ReFT edits: the first p and the last s of each row's prompt."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class EditPositions:
    """Where one call of the model is edited: indices into its tokens, flattened to [batch * q]."""

    first: Tensor
    last: Tensor

    def all(self) -> Tensor:
        """Both groups; they never share a token."""
        return torch.cat((self.first, self.last))


def group_sizes(lengths: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """How many tokens of prompts of `lengths` [batch] tokens belong to either group.

    A prompt of n < first + last tokens gives floor(n / 2) at most to the first group and
    ceil(n / 2) at most to the last one (arXiv 2404.03592, section 3.2), so no token is in both.
    """
    short = lengths < first + last
    half = lengths // 2
    sizes_first = torch.where(short, half.clamp(max=first), first)
    sizes_last = torch.where(short, (lengths - half).clamp(max=last), last)
    return sizes_first, sizes_last


def edit_positions(
    mask: Tensor, lengths: Tensor, *, past: int, first: int, last: int
) -> EditPositions:
    """Positions to edit in a call on the columns from `past` on.

    `mask` [batch, past + q] is 1 where there is a token and 0 for padding, on either side;
    `lengths` [batch] counts the tokens of each prompt, which are a row's first ones.
    """
    rank = mask.cumsum(1) - 1
    sizes_first, sizes_last = group_sizes(lengths, first, last)
    real = mask > 0
    in_first = real & (rank < sizes_first[:, None])
    in_last = real & (rank < lengths[:, None]) & (rank >= (lengths - sizes_last)[:, None])
    return EditPositions(*(_flat(group[:, past:]) for group in (in_first, in_last)))


def prompt_lengths(
    mask: Tensor, *, width: int | None = None, first_trained: Tensor | None = None
) -> Tensor:
    """Tokens of each row's prompt, [batch].

    `width` is the number of columns, padding included, that the prompts take; columns that `mask`
    does not reach yet count as tokens. `first_trained` [batch] is the column of the first token
    that is learnt; the prompt ends before it. Without either all tokens are prompt.
    """
    if width is not None:
        return width - (mask[:, :width] == 0).sum(1)
    if first_trained is not None:
        columns = torch.arange(mask.shape[1], device=mask.device)
        mask = mask * (columns < first_trained[:, None])
    return (mask > 0).sum(1)


def first_trained_column(labels: Tensor, *, shifted: bool = False) -> Tensor:
    """Column of each row's first learnt token, [batch]; the row's width where nothing is learnt.

    `labels` [batch, q] are -100 where nothing is learnt. The token in column 0 is never learnt: no
    other stands before it to predict it. `shifted`: each label stands one column to the left.
    """
    trained = labels != -100
    trained = (
        torch.nn.functional.pad(trained[:, :-1], (1, 0))
        if shifted
        else trained.index_fill(1, torch.zeros(1, dtype=torch.long, device=labels.device), False)
    )
    found = trained.any(1)
    column = trained.to(torch.uint8).argmax(1)
    return torch.where(found, column, labels.shape[1])


def _flat(group: Tensor) -> Tensor:
    return group.reshape(-1).nonzero().squeeze(1)
