"""Adds to sparse tokens what their left-out channels would have added, judged by the sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.sparsity.tokens import TokenSplit

RIDGE = 0.3
"""The weight of the penalty, in mean squared lengths of the sampled inputs, their mean not taken
away: where they hardly differ, nothing is concluded from what they differ by."""


@dataclass(frozen=True, slots=True)
class Compensation:
    """What the left-out channels of a block add to its output, as an affine map of its input.

    The sampled tokens are the rows that a regression saw; so the map has at most their number as
    its rank, and costs a token two products with as many rows as were sampled.
    """

    offset: Tensor
    """What is added to every token, [d]."""
    inputs: Tensor | None = None
    """The sampled inputs [n, d], their mean taken away; None: only the offset is added."""
    outputs: Tensor | None = None
    """What each of them contributes to the output [n, d]."""

    def added_to(self, out: Tensor, x: Tensor, split: TokenSplit) -> Tensor:
        """Add to the sparse tokens of `out` for the block's input `x`, both [batch, length, d]."""
        rows = x.reshape(-1, x.shape[-1]).index_select(0, split.sparse)
        if self.inputs is None or self.outputs is None:
            added = self.offset.to(rows.dtype).expand(rows.shape[0], -1)
        else:
            inputs, outputs = self.inputs.to(rows.dtype), self.outputs.to(rows.dtype)
            added = torch.addmm(self.offset.to(rows.dtype), rows @ inputs.t(), outputs)
        flat = out.reshape(-1, out.shape[-1])
        return flat.index_add(0, split.sparse, added.to(out.dtype)).view_as(out)


def mean_compensation(outputs: Tensor) -> Compensation:
    """The mean of `outputs` [n, d], what left-out channels add to the sampled tokens."""
    return Compensation(_precise(outputs).mean(dim=0))


def linear_compensation(inputs: Tensor, outputs: Tensor) -> Compensation:
    """The ridge regression of `outputs` on `inputs`, both [n, d] and of the sampled tokens.

    Solved in its dual form, for n is small and d is not.
    """
    x, y = _precise(inputs), _precise(outputs)
    length = x.pow(2).sum(dim=1).mean().clamp(min=torch.finfo(x.dtype).eps)
    mean_in, mean_out = x.mean(dim=0), y.mean(dim=0)
    x, y = x - mean_in, y - mean_out
    products = x @ x.t()
    products.diagonal().add_(RIDGE * length)
    # Positive definite by the penalty; to check it would make a GPU wait.
    factor, _ = torch.linalg.cholesky_ex(products)
    weights = torch.cholesky_solve(y, factor)
    return Compensation(mean_out - (x @ mean_in) @ weights, x, weights)


def _precise(tensor: Tensor) -> Tensor:
    """`tensor` in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
