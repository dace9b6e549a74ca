"""Scores a layer's channels for a batch: by true norms, by a cheap guess of them or by chance."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.sparsity.frozen_linear import FrozenLinear
from gossamer.sparsity.products.slices import compute_dtype
from gossamer.sparsity.tokens import TokenSplit, product


@dataclass(frozen=True, slots=True)
class PredictorFactors:
    """A low-rank stand-in of one linear layer: x W^T is about x `down` `up`."""

    down: Tensor
    """The factor [in, r] that inputs meet first."""
    up: Tensor
    """The factor [r, out] that gives the outputs."""
    bias: Tensor | None = None
    """The layer's own bias [out]."""

    @property
    def num_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.down, self.up))


def factorise(linear: FrozenLinear, rank: int, dtype: torch.dtype) -> PredictorFactors:
    """The best stand-in of `rank` (or less, for a smaller matrix), from the SVD in float32.

    W^T = U S V^T; down = U[:, :r] sqrt(S), up = sqrt(S) V^T[:r].
    """
    weight = linear.weight(torch.float32).t()
    rank = min(rank, *weight.shape)
    left, values, right = _leading(weight, rank)
    root = values.sqrt()
    return PredictorFactors(
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


def output_norms(x: Tensor, factors: PredictorFactors) -> Tensor:
    """The L2 norm over the rows of `x` [n, in] of each guessed output: [out], float32.

    With z = x down, norm_c^2 = b_c^T (z^T z) b_c: the guessed outputs themselves are never formed.
    """
    z = (x.to(factors.down.dtype) @ factors.down).float()
    up = factors.up.float()
    if factors.bias is not None:
        z = torch.cat([z, z.new_ones(z.shape[0], 1)], 1)
        up = torch.cat([up, factors.bias.float()[None]], 0)
    return ((z.t() @ z @ up) * up).sum(0).clamp(min=0).sqrt()


def gated_norms(x: Tensor, gate: PredictorFactors, up: PredictorFactors) -> Tensor:
    """The L2 norm over the rows of `x` [n, in] of each guessed SiLU(gate) * up: [f], float32."""
    g, u = (_guess(x, factors) for factors in (gate, up))
    return (F.silu(g) * u).float().norm(dim=0)


def mean_rows(x: Tensor, real: Tensor | None) -> Tensor:
    """The mean [batch, n] over the tokens of each row of `x` [batch, length, n], padding left out.

    `real` [batch, length] is True at tokens that are not padding.
    """
    if real is None:
        return x.mean(1)
    weights = real.to(x.dtype)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
    return torch.bmm(weights[:, None], x).squeeze(1)


def _guess(x: Tensor, factors: PredictorFactors) -> Tensor:
    out = x.to(factors.down.dtype) @ factors.down @ factors.up
    return out if factors.bias is None else out + factors.bias


Projection = Literal["gate", "up", "q", "k", "v"]


class Criterion(ABC):
    """Scores channels of one decoder layer; the highest are kept."""

    @abstractmethod
    def mlp(self, x: Tensor, split: TokenSplit) -> Tensor:
        """Scores [f] of the MLP's channels for its input [batch, length, d]."""

    @abstractmethod
    def outputs(self, name: Projection, x: Tensor, split: TokenSplit) -> Tensor:
        """Norms [out] of the outputs of q, k or v for the attention's input [batch, length, d]."""


class Guess(Criterion):
    """Norms guessed through products of low rank."""

    def __init__(self, factors: dict[str, PredictorFactors], *, mean_tokens: bool) -> None:
        self._factors = factors
        self._mean_tokens = mean_tokens

    def mlp(self, x: Tensor, split: TokenSplit) -> Tensor:
        rows = mean_rows(x, split.real) if self._mean_tokens else real_rows(x, split)
        return gated_norms(rows, self._factors["gate"], self._factors["up"])

    def outputs(self, name: Projection, x: Tensor, split: TokenSplit) -> Tensor:
        return output_norms(real_rows(x, split), self._factors[name])


class TrueNorms(Criterion):
    """Scores by true norms over some tokens: costs their dense products, forward.

    Over all tokens (the oracle) that is what sparsity is meant to save; over a few, next to none.
    """

    def __init__(
        self, linears: dict[str, FrozenLinear], rows: Callable[[Tensor, TokenSplit], Tensor]
    ) -> None:
        self._linears = linears
        self._rows = rows

    def mlp(self, x: Tensor, split: TokenSplit) -> Tensor:
        return self.mlp_channels(x, split)[1].float().norm(dim=0)

    def mlp_channels(self, x: Tensor, split: TokenSplit) -> tuple[Tensor, Tensor]:
        """The tokens that are looked at, [n, d] of `x` [batch, length, d], and what the MLP's
        channels are there, [n, f]."""
        rows = self._rows(x, split)
        return rows, F.silu(self._dense("gate", rows)) * self._dense("up", rows)

    def outputs(self, name: Projection, x: Tensor, split: TokenSplit) -> Tensor:
        return self._dense(name, self._rows(x, split)).float().norm(dim=0)

    def _dense(self, name: str, rows: Tensor) -> Tensor:
        linear = self._linears[name]
        dtype = compute_dtype(rows, linear)
        return product(rows.to(dtype), linear.weight(dtype), linear.bias(dtype))


class Chance(Criterion):
    """Scores drawn at random; the same ones when a forward pass is repeated."""

    def __init__(self, linears: dict[str, FrozenLinear], *, seed: int) -> None:
        self._linears = linears
        self._seed = seed
        self.moment = 0
        """The number of the forward pass."""

    def mlp(self, x: Tensor, split: TokenSplit) -> Tensor:
        return self._draw("gate", x)

    def outputs(self, name: Projection, x: Tensor, split: TokenSplit) -> Tensor:
        return self._draw(name, x)

    def _draw(self, name: str, x: Tensor) -> Tensor:
        salt = ("gate", "q", "k", "v").index(name)
        generator = torch.Generator().manual_seed((self._seed + self.moment * 4 + salt) % 2**63)
        return torch.rand(self._linears[name].out_features, generator=generator).to(x.device)


def real_rows(x: Tensor, split: TokenSplit) -> Tensor:
    """The rows [n, d] of `x` [batch, length, d] that are no padding."""
    return x.reshape(-1, x.shape[-1]) if split.real is None else x[split.real]


def sampled_rows(x: Tensor, split: TokenSplit) -> Tensor:
    """The rows [n, d] of the tokens of `x` [batch, length, d] that are sampled."""
    return x.reshape(-1, x.shape[-1]).index_select(0, split.sampled)
