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

_LEAST_TOP_P = 1e-300
"""What a top_p of 0 stands for: the likeliest token stays, since none is before it."""

_PIECE = 256
"""Tokens whose probabilities are summed before the place is looked for among the pieces."""


def draw_tokens(
    logits: Tensor, params: Sequence[SamplingParams], places: Sequence[float]
) -> Tensor:
    """Draw one token of each row of logits [n, vocabulary], each row's largest value being 0.

    Args:
        logits: the rows, which are used up. What is drawn of one without finite numbers has no
            meaning.
        params: of each row.
        places: in [0, 1), where in its distribution a row's token lies.

    Returns:
        int64 [n], on the device of the logits.
    """
    scaled = logits
    if any(p.temperature != 1.0 for p in params):
        temperatures = put_on(logits.device, [[p.temperature] for p in params], logits.dtype)
        scaled = logits.div_(temperatures)
    vocabulary = scaled.shape[1]
    is_cut = [p.top_p < 1.0 or 0 < p.top_k < vocabulary for p in params]
    if len(set(is_cut)) == 1:
        # Without a copy where all rows are of one sort, as usual.
        return (_from_candidates if is_cut[0] else _from_all)(scaled, params, places)
    result = torch.zeros(len(params), dtype=torch.int64, device=logits.device)
    for draw, rows in (
        (_from_all, [row for row, cut in enumerate(is_cut) if not cut]),
        (_from_candidates, [row for row, cut in enumerate(is_cut) if cut]),
    ):
        index = put_on(logits.device, rows)
        found = draw(scaled[index], [params[r] for r in rows], [places[r] for r in rows])
        result.index_copy_(0, index, found)
    return result


def put_on(device: torch.device, values: object, dtype: torch.dtype = torch.int64) -> Tensor:
    """Bring `values` of the host to `device`, without waiting for what that computes."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def _from_all(scaled: Tensor, params: Sequence[SamplingParams], places: Sequence[float]) -> Tensor:
    return _pick(scaled.exp_(), params, places)


def _from_candidates(
    scaled: Tensor, params: Sequence[SamplingParams], places: Sequence[float]
) -> Tensor:
    """Draw from the most likely tokens of each row, as many as its top_k and top_p keep.

    Waits for the device unless the host knows that a tier is enough: where each row has a top_k.
    """
    device, vocabulary = scaled.device, scaled.shape[1]
    widths = [p.top_k if 0 < p.top_k < vocabulary else vocabulary for p in params]
    width = put_on(device, [[each] for each in widths])
    top_p = put_on(device, [[max(p.top_p, _LEAST_TOP_P)] for p in params], torch.float64)
    is_uncut = width == vocabulary
    # Of no use where each row has a top_k.
    has_uncut = max(widths) == vocabulary
    total = scaled.logsumexp(1, keepdim=True) if has_uncut else torch.zeros_like(scaled[:, :1])
    rows = list(range(len(params)))
    index: Tensor | None = None
    result = torch.zeros(len(params), dtype=torch.int64, device=device)
    for tier in (*_TIERS, vocabulary):
        limit = min(tier, vocabulary, max(widths[row] for row in rows))
        own, own_width, own_top_p, own_total, is_whole = (
            each if index is None else each[index]
            for each in (scaled, width, top_p, total, is_uncut)
        )
        values, tokens = torch.topk(own, limit)
        is_beyond = torch.arange(limit, device=device) >= own_width
        values = values.masked_fill(is_beyond, float("-inf"))
        # Probabilities among the top_k candidates, as if the others did not exist.
        sums = torch.where(is_whole, own_total, values.logsumexp(1, keepdim=True))
        probabilities = (values - sums).exp()
        before = probabilities.cumsum(1) - probabilities
        # Compared in Python's precision: a tiny top_p must not round to 0 and lose them all.
        is_out = (own_top_p < 1.0) & (before.double() >= own_top_p)
        found = _pick(
            probabilities.masked_fill(is_out, 0.0),
            [params[row] for row in rows],
            [places[row] for row in rows],
        )
        chosen = tokens.gather(1, found[:, None])[:, 0]
        if index is None:
            result = chosen
        else:
            result.index_copy_(0, index, chosen)
        if all(widths[row] <= limit for row in rows):
            break
        mass = probabilities.sum(1, keepdim=True).double()
        is_enough = (own_width <= limit) | (is_whole & (mass >= own_top_p))
        enough = is_enough[:, 0].tolist()
        rows = [row for row, done in zip(rows, enough, strict=True) if not done]
        if not rows:
            break
        index = put_on(device, rows)
    return result


def _pick(weights: Tensor, params: Sequence[SamplingParams], places: Sequence[float]) -> Tensor:
    """Find in each row of `weights` [n, tokens] where its place lies; they need not add up to 1.

    What min_p leaves out has no weight. A token without weight is never chosen.
    """
    device = weights.device
    if any(p.min_p > 0 for p in params):
        least = put_on(device, [[p.min_p] for p in params], weights.dtype)
        least = least * weights.amax(1, keepdim=True)
        weights = weights.masked_fill(weights < least, 0.0)
    at = put_on(device, places, torch.float64)[:, None]
    if weights.shape[1] <= 2 * _PIECE:
        return _place(weights, at)[0][:, 0]
    # First the piece, then the token in it: the sums of all tokens one by one are not needed.
    whole = weights.shape[1] // _PIECE * _PIECE
    pieces = weights[:, :whole].view(len(weights), -1, _PIECE).sum(2)
    if whole < weights.shape[1]:
        pieces = torch.cat([pieces, weights[:, whole:].sum(1, keepdim=True)], dim=1)
    piece, within = _place(pieces, at)
    first = piece * _PIECE
    columns = first + torch.arange(_PIECE, device=device)
    inside = weights.gather(1, columns.clamp(max=weights.shape[1] - 1))
    inside = inside.masked_fill(columns >= weights.shape[1], 0.0)
    return (first + _place(inside, within)[0])[:, 0]


def _place(weights: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Return the column [n, 1] in which the share `at` [n, 1] of a row's weight is reached, and
    which share of that column's own weight it is."""
    cumulative = weights.double().cumsum(1)
    target = at * cumulative[:, -1:]
    column = torch.searchsorted(cumulative, target, right=True)
    # Asked on a processor only, since another device would have to be waited for.
    if weights.device.type != "cpu" or bool((column == weights.shape[1]).any()):
        # Rounded up to the very end: the last column with a weight.
        last = weights.shape[1] - 1 - (weights.flip(1) > 0).int().argmax(1, keepdim=True)
        column = torch.minimum(column, last)
    own = weights.gather(1, column).double()
    share = (target - (cumulative.gather(1, column) - own)) / own
    return column, share.clamp(0.0, 1.0)
