"""Draws tokens for many rows of logits at once; a row's token depends on that row alone.

A token is drawn by the inverse of the cumulative distribution over the candidates that top_k, top_p
and min_p keep, at a place that the caller has drawn from the sequence's own generator.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gossamer.serving.core.messages import SamplingParams

_TIERS = (64, 1024)
"""Candidates that are looked at first: the first number is enough for nearly every top_p, and to
sort all takes ten times as long. A row with a wider nucleus goes on to the next, and to all."""

_PIECE = 256
"""Tokens whose probabilities are summed before the place is looked for among the pieces."""


def draw_tokens(
    logits: Tensor, params: Sequence[SamplingParams], places: Sequence[float]
) -> list[int]:
    """Draw one token of each row of logits [n, vocabulary], each row's largest value being 0.

    The logits are used up. places: in [0, 1), where in its distribution a row's token lies.
    """
    temperatures = [[p.temperature] for p in params]
    scaled = logits
    if any(temperature != [1.0] for temperature in temperatures):
        scaled = logits.div_(torch.tensor(temperatures, dtype=logits.dtype))
    vocabulary = scaled.shape[1]
    is_cut = [p.top_p < 1.0 or 0 < p.top_k < vocabulary for p in params]
    tokens = [0] * len(params)
    for draw, rows in (
        (_from_all, [row for row, cut in enumerate(is_cut) if not cut]),
        (_from_candidates, [row for row, cut in enumerate(is_cut) if cut]),
    ):
        if rows:
            # Without a copy where all rows are of one sort, as usual.
            own = scaled if len(rows) == len(params) else scaled[rows]
            found = draw(own, [params[r] for r in rows], [places[r] for r in rows])
            for row, token in zip(rows, found, strict=True):
                tokens[row] = token
    return tokens


def _from_all(
    scaled: Tensor, params: Sequence[SamplingParams], places: Sequence[float]
) -> list[int]:
    return _pick(scaled.exp_(), params, places)


def _from_candidates(
    scaled: Tensor, params: Sequence[SamplingParams], places: Sequence[float]
) -> list[int]:
    """Draw from the most likely tokens of each row, as many as its top_k and top_p keep."""
    vocabulary = scaled.shape[1]
    width = torch.tensor([[p.top_k if 0 < p.top_k < vocabulary else vocabulary] for p in params])
    top_p = torch.tensor([[p.top_p] for p in params], dtype=torch.float64)
    is_uncut = width == vocabulary
    # Of no use where each row has a top_k.
    total = scaled.logsumexp(1, keepdim=True) if bool(is_uncut.any()) else torch.zeros(width.shape)
    result = [0] * len(params)
    rows = list(range(len(params)))
    for tier in (*_TIERS, vocabulary):
        if not rows:
            break
        limit = min(tier, vocabulary, int(width[rows].max()))
        own = scaled if len(rows) == len(params) else scaled[rows]
        values, tokens = torch.topk(own, limit)
        values = values.masked_fill(torch.arange(limit) >= width[rows], float("-inf"))
        # Probabilities among the top_k candidates, as if the others did not exist.
        is_whole = is_uncut[rows]
        sums = torch.where(is_whole, total[rows], values.logsumexp(1, keepdim=True))
        probabilities = (values - sums).exp()
        mass = probabilities.sum(1, keepdim=True).double()
        is_enough = (width[rows] <= limit) | (is_whole & (mass >= top_p[rows]))
        before = probabilities.cumsum(1) - probabilities
        # Compared in Python's precision: a tiny top_p must not round to 0 and lose them all.
        is_out = (top_p[rows] < 1.0) & (before.double() >= top_p[rows])
        found = _pick(
            probabilities.masked_fill(is_out, 0.0),
            [params[row] for row in rows],
            [places[row] for row in rows],
        )
        chosen = tokens.gather(1, torch.tensor(found)[:, None])[:, 0].tolist()
        left = []
        for row, token, enough in zip(rows, chosen, is_enough[:, 0].tolist(), strict=True):
            result[row] = token
            if not enough:
                left.append(row)
        rows = left
    return result


def _pick(weights: Tensor, params: Sequence[SamplingParams], places: Sequence[float]) -> list[int]:
    """Find in each row of `weights` [n, tokens] where its place lies; they need not add up to 1.

    What min_p leaves out has no weight. A token without weight is never chosen.
    """
    if any(p.min_p > 0 for p in params):
        least = torch.tensor([[p.min_p] for p in params], dtype=weights.dtype)
        least = least * weights.amax(1, keepdim=True)
        weights = weights.masked_fill(weights < least, 0.0)
    at = torch.tensor(places, dtype=torch.float64)[:, None]
    if weights.shape[1] <= 2 * _PIECE:
        return _place(weights, at)[0][:, 0].tolist()
    # First the piece, then the token in it: the sums of all tokens one by one are not needed.
    whole = weights.shape[1] // _PIECE * _PIECE
    pieces = weights[:, :whole].view(len(weights), -1, _PIECE).sum(2)
    if whole < weights.shape[1]:
        pieces = torch.cat([pieces, weights[:, whole:].sum(1, keepdim=True)], dim=1)
    piece, within = _place(pieces, at)
    first = piece * _PIECE
    columns = first + torch.arange(_PIECE)
    inside = weights.gather(1, columns.clamp(max=weights.shape[1] - 1))
    inside = inside.masked_fill(columns >= weights.shape[1], 0.0)
    return (first + _place(inside, within)[0])[:, 0].tolist()


def _place(weights: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Return the column [n, 1] in which the share `at` [n, 1] of a row's weight is reached, and
    which share of that column's own weight it is."""
    cumulative = weights.double().cumsum(1)
    target = at * cumulative[:, -1:]
    column = torch.searchsorted(cumulative, target, right=True)
    if bool((column == weights.shape[1]).any()):
        # Rounded up to the very end: the last column with a weight.
        last = weights.shape[1] - 1 - (weights.flip(1) > 0).int().argmax(1, keepdim=True)
        column = torch.minimum(column, last)
    own = weights.gather(1, column).double()
    share = (target - (cumulative.gather(1, column) - own)) / own
    return column, share.clamp(0.0, 1.0)
