"""Draws tokens for many rows of logits at once; a row's token depends on that row alone.

A token is drawn by the inverse of the cumulative distribution over the candidates that top_k, top_p
and min_p keep, at a place that the caller has drawn from the sequence's own generator.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gossamer.serving.core.messages import SamplingParams

NARROW = 256
"""Enough candidates for nearly every nucleus; a row with a wider one is sorted in full."""


def draw_tokens(
    logits: Tensor, params: Sequence[SamplingParams], places: Sequence[float]
) -> list[int]:
    """Draw one token of each row of logits [n, vocabulary], each row's largest value being 0.

    places: in [0, 1), where in its distribution a row's token lies.
    """
    scaled = logits / torch.tensor([[p.temperature] for p in params], dtype=logits.dtype)
    vocabulary = scaled.shape[1]
    widths = [p.top_k if 0 < p.top_k < vocabulary else vocabulary for p in params]
    is_cut = [p.top_p < 1.0 or w < vocabulary for p, w in zip(params, widths, strict=True)]
    tokens = [0] * len(params)
    for rows in ([r for r, cut in enumerate(is_cut) if not cut], _rows(is_cut)):
        if not rows:
            continue
        # Without a copy where all rows are of one sort, as usual.
        own = scaled if len(rows) == len(params) else scaled[rows]
        chosen = [params[r] for r in rows]
        at = [places[r] for r in rows]
        found = (
            _from_candidates(own, chosen, [widths[r] for r in rows], at)
            if is_cut[rows[0]]
            else _pick(own.softmax(1), chosen, at)
        )
        for row, token in zip(rows, found, strict=True):
            tokens[row] = token
    return tokens


def _rows(chosen: Sequence[bool]) -> list[int]:
    return [row for row, is_chosen in enumerate(chosen) if is_chosen]


def _from_candidates(
    scaled: Tensor, params: Sequence[SamplingParams], widths: Sequence[int], places: Sequence[float]
) -> list[int]:
    """Draw from the most likely `widths` of each row, as far as its top_p reaches."""
    vocabulary = scaled.shape[1]
    width = torch.tensor([[w] for w in widths])
    top_p = torch.tensor([[p.top_p] for p in params], dtype=torch.float64)
    is_whole = width == vocabulary
    total = scaled.logsumexp(1, keepdim=True) if bool(is_whole.any()) else torch.zeros(1, 1)
    values, tokens = torch.topk(scaled, min(max(widths), NARROW))
    mass = (values - total).exp().sum(1, keepdim=True)
    is_wide = (width > NARROW) & (~is_whole | (mass.double() < top_p))
    wide = _rows(is_wide[:, 0].tolist())
    result = _among(values, tokens, total, is_whole, width, top_p, params, places)
    if wide:
        values, tokens = torch.topk(scaled[wide], max(widths[row] for row in wide))
        sorted_in_full = _among(
            values,
            tokens,
            total.expand(len(widths), 1)[wide],
            is_whole[wide],
            width[wide],
            top_p[wide],
            [params[row] for row in wide],
            [places[row] for row in wide],
        )
        for row, token in zip(wide, sorted_in_full, strict=True):
            result[row] = token
    return result


def _among(
    values: Tensor,
    tokens: Tensor,
    total: Tensor,
    is_whole: Tensor,
    width: Tensor,
    top_p: Tensor,
    params: Sequence[SamplingParams],
    places: Sequence[float],
) -> list[int]:
    """Draw from sorted `values` [n, candidates], each of a row of `tokens`.

    total [n, 1]: the logarithm of the sum over the whole vocabulary, for rows without a top_k.
    """
    values = values.masked_fill(torch.arange(values.shape[1]) >= width, float("-inf"))
    # Probabilities among the top_k candidates, as if the others did not exist.
    total = torch.where(is_whole, total, values.logsumexp(1, keepdim=True))
    probabilities = (values - total).exp()
    before = probabilities.cumsum(1) - probabilities
    # Compared in Python's precision: a tiny top_p must not round to 0 and lose them all.
    is_out = (top_p < 1.0) & (before.double() >= top_p)
    found = _pick(probabilities.masked_fill(is_out, 0.0), params, places)
    return tokens.gather(1, torch.tensor(found)[:, None])[:, 0].tolist()


def _pick(
    probabilities: Tensor, params: Sequence[SamplingParams], places: Sequence[float]
) -> list[int]:
    """Find where in its row of `probabilities` each place lies, what min_p leaves out left out."""
    if any(p.min_p > 0 for p in params):
        least = torch.tensor([[p.min_p] for p in params], dtype=probabilities.dtype)
        least = least * probabilities.amax(1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    cumulative = probabilities.double().cumsum(1)
    target = torch.tensor(places, dtype=torch.float64)[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Rounding may put a target on the very end.
    last = probabilities.shape[1] - 1 - (probabilities.flip(1) > 0).int().argmax(1)
    return torch.minimum(place, last).tolist()
