"""How a layer's channels are chosen for a batch: by guess, by truth, by chance."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.sparsity.predictor import Factors, gated_norms, mean_rows, output_norms
from gossamer.sparsity.products import compute_dtype
from gossamer.sparsity.rows import product
from gossamer.sparsity.weights import FrozenLinear

Projection = Literal["gate", "up", "q", "k", "v"]


class Criterion(ABC):
    """Scores channels of one decoder layer; the highest are kept."""

    @abstractmethod
    def mlp(self, x: Tensor, real: Tensor | None) -> Tensor:
        """[f]: scores of the MLP's channels for its input [batch, length, d]."""

    @abstractmethod
    def outputs(self, name: Projection, x: Tensor, real: Tensor | None) -> Tensor:
        """[out]: norms of the outputs of q, k or v for the attention's input [batch, length, d]."""


class Guess(Criterion):
    """Norms guessed through products of low rank."""

    def __init__(self, factors: dict[str, Factors], *, mean_tokens: bool) -> None:
        self._factors = factors
        self._mean_tokens = mean_tokens

    def mlp(self, x: Tensor, real: Tensor | None) -> Tensor:
        rows = mean_rows(x, real) if self._mean_tokens else _real_rows(x, real)
        return gated_norms(rows, self._factors["gate"], self._factors["up"])

    def outputs(self, name: Projection, x: Tensor, real: Tensor | None) -> Tensor:
        return output_norms(_real_rows(x, real), self._factors[name])


class Oracle(Criterion):
    """True norms: costs the dense products that sparsity is meant to save."""

    def __init__(self, linears: dict[str, FrozenLinear]) -> None:
        self._linears = linears

    def mlp(self, x: Tensor, real: Tensor | None) -> Tensor:
        rows = _real_rows(x, real)
        return (F.silu(self._dense("gate", rows)) * self._dense("up", rows)).float().norm(dim=0)

    def outputs(self, name: Projection, x: Tensor, real: Tensor | None) -> Tensor:
        return self._dense(name, _real_rows(x, real)).float().norm(dim=0)

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
        """Number of the forward pass."""

    def mlp(self, x: Tensor, real: Tensor | None) -> Tensor:
        return self._draw("gate", x)

    def outputs(self, name: Projection, x: Tensor, real: Tensor | None) -> Tensor:
        return self._draw(name, x)

    def _draw(self, name: str, x: Tensor) -> Tensor:
        salt = ("gate", "q", "k", "v").index(name)
        generator = torch.Generator().manual_seed((self._seed + self.moment * 4 + salt) % 2**63)
        return torch.rand(self._linears[name].out_features, generator=generator).to(x.device)


def _real_rows(x: Tensor, real: Tensor | None) -> Tensor:
    return x.reshape(-1, x.shape[-1]) if real is None else x[real]
