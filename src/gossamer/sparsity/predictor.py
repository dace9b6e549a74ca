"""A cheap guess of which channels of frozen weights will be large: products of low rank."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.sparsity.weights import FrozenLinear


@dataclass(frozen=True, slots=True)
class Factors:
    """A low-rank stand-in of one linear layer: x W^T is about x `down` `up`."""

    down: Tensor
    """[in, r]"""
    up: Tensor
    """[r, out]"""
    bias: Tensor | None = None
    """[out], the layer's own."""

    @property
    def num_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.down, self.up))


def factorise(linear: FrozenLinear, rank: int, dtype: torch.dtype) -> Factors:
    """The best stand-in of `rank` (or less, for a smaller matrix), from the SVD in float32.

    W^T = U S V^T; down = U[:, :r] sqrt(S), up = sqrt(S) V^T[:r].
    """
    weight = linear.weight(torch.float32).t()
    rank = min(rank, *weight.shape)
    left, values, right = _leading(weight, rank)
    root = values.sqrt()
    return Factors(
        down=(left * root).to(dtype).contiguous(),
        up=(root[:, None] * right).to(dtype).contiguous(),
        bias=linear.bias(dtype),
    )


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U [m, r], S [r], V^T [r, n] of the `rank` largest singular values.

    Through the eigenvectors of the smaller Gram matrix in float64: a tenth of the time of an SVD,
    and exact to well below what a guess of rank 8 leaves out.
    """
    wide = matrix.shape[0] < matrix.shape[1]
    tall = (matrix.t() if wide else matrix).double()
    values, vectors = torch.linalg.eigh(tall.t() @ tall)
    vectors = vectors[:, -rank:].flip(1)
    singular = values[-rank:].flip(0).clamp(min=0).sqrt()
    left = tall @ vectors / singular.clamp(min=torch.finfo(torch.float64).tiny)
    if wide:
        left, vectors = vectors, left
    return left.float(), singular.float(), vectors.t().float()


def output_norms(x: Tensor, factors: Factors) -> Tensor:
    """[out]: the L2 norm over the rows of `x` [n, in] of each guessed output, in float32.

    With z = x down, norm_c^2 = b_c^T (z^T z) b_c: the guessed outputs themselves are never formed.
    """
    z = (x.to(factors.down.dtype) @ factors.down).float()
    up = factors.up.float()
    if factors.bias is not None:
        z = torch.cat([z, z.new_ones(z.shape[0], 1)], 1)
        up = torch.cat([up, factors.bias.float()[None]], 0)
    return ((z.t() @ z @ up) * up).sum(0).clamp(min=0).sqrt()


def gated_norms(x: Tensor, gate: Factors, up: Factors) -> Tensor:
    """[f]: the L2 norm over the rows of `x` [n, in] of each guessed SiLU(gate) * up, in float32."""
    g, u = (_guess(x, factors) for factors in (gate, up))
    return (F.silu(g) * u).float().norm(dim=0)


def mean_rows(x: Tensor, real: Tensor | None) -> Tensor:
    """[batch, n]: the mean over the tokens of each row of `x` [batch, length, n], padding left out.

    `real` [batch, length] is True at tokens that are not padding.
    """
    if real is None:
        return x.mean(1)
    weights = real.to(x.dtype)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
    return torch.bmm(weights[:, None], x).squeeze(1)


def _guess(x: Tensor, factors: Factors) -> Tensor:
    out = x.to(factors.down.dtype) @ factors.down @ factors.up
    return out if factors.bias is None else out + factors.bias
