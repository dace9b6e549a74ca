"""FlexLoRA: the mean of the products, decomposed, and cut to each rank (arXiv 2402.11505)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.federated.aggregation.base import Aggregation, Combined
from gossamer.federated.aggregation.tensors import (
    FactorPair,
    Upload,
    client_pairs,
    pair_names,
    spectrum_of,
    sum_of,
)

ROW_LENGTH = 3**-0.5
"""The expected length of a row of A where LoRA begins, which all rows of A get here."""
_ROUNDING = 1e-7
"""Singular values below this share of the largest are rounding, not learning."""


class Flex(Aggregation):
    """The best approximation of sum w_i B_i A_i of the server's rank; a client takes the largest
    components that its own rank holds. The error is the root of the sum of the squares of the
    singular values that are left out."""

    name = "flex"
    exact = False

    def combine(
        self, before: Mapping[str, Tensor], uploads: Sequence[Upload], *, seed: int
    ) -> Combined:
        weights = [upload.weight for upload in uploads]
        tensors = dict(before)
        for names in pair_names(before).values():
            start = FactorPair(*(before[name] for name in names))
            found = best_pair(sum_of(client_pairs(names, before, uploads), weights), start)
            tensors |= dict(zip(names, (found.a, found.b), strict=True))
        return Combined(tensors)


def best_pair(product: FactorPair, start: FactorPair) -> FactorPair:
    """Return the best approximation of `product` of the rank of `start`, largest component first.

    Components that the product does not have keep the A of `start`, with B zero, so that they can
    learn.
    """
    rank = start.a.shape[0]
    found = spectrum_of(product)
    live = found.s[:rank] > _ROUNDING * found.s[0].clamp(min=torch.finfo(torch.float64).tiny)
    count = int(live.sum())
    a, b = start.a.clone(), torch.zeros_like(start.b)
    a[:count] = (ROW_LENGTH * found.vt[:count]).to(a.dtype)
    b[:, :count] = (found.u[:, :count] * (found.s[:count] / ROW_LENGTH)).to(b.dtype)
    return FactorPair(a, b)
