"""The best low-rank factors of a change of a weight, and what they lose of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.adapters.kinds.low_rank import Factors

Change = Factors | Tensor
"""Factors where a change is one of low rank; else the whole change [h_out, h_in], float32."""
LEAST_ERROR = 1e-6
"""Errors below this are those of numbers in float32, which no rank takes away."""
# Squares of singular values below this share of the largest are rounding of the Gram matrix.
_ROUNDING = 1e-15


@dataclass(frozen=True)
class Approximation:
    """Factors in place of a dense change D, in float32."""

    factors: Factors
    lost: float
    """Squared Frobenius norm of D - s B A, of the factors as they are stored."""
    total: float
    """Squared Frobenius norm of D."""
    errors_by_rank: tuple[float, ...]
    """Relative error of the best factors of each rank, from rank 1."""

    @property
    def error(self) -> float:
        """Relative error |D - s B A| / |D| in Frobenius norms."""
        return (self.lost / self.total) ** 0.5


@torch.no_grad()
def approximate(
    delta: Tensor, *, rank: int | None = None, max_error: float | None = None
) -> Approximation:
    """Factor `delta` [h_out, h_in], which is not all zero, by its leading singular vectors.

    By the theorem of Eckart, Young and Mirsky no other factors of their rank come nearer. With
    `max_error` the rank is the smallest whose relative error is within it, and at most `rank`;
    without it `rank`, or where that is less the rank that `delta` has. Both factors get
    the same norms: B = U S^1/2, A = S^1/2 V^T.

    Worked out in float64 through the Gram matrix of the smaller side, of those rows and columns
    that change.
    """
    rows, columns = (delta.any(side).nonzero().flatten() for side in (1, 0))
    core = delta.index_select(0, rows).index_select(1, columns).double()
    wide = core.shape[0] <= core.shape[1]
    tall = core.t() if wide else core
    squares, vectors = torch.linalg.eigh(tall.t() @ tall)
    squares, vectors = squares.flip(0), vectors.flip(1)
    total = float(core.square().sum())
    count = int((squares > _ROUNDING * len(squares) * squares[0]).sum())
    errors = _errors(squares[:count], total)
    chosen = count if rank is None else min(rank, count)
    if max_error is not None:
        within = (place for place, error in enumerate(errors, 1) if error <= max_error)
        chosen = min(chosen, next(within, count))
    roots = squares[:chosen].sqrt().sqrt()
    right = (vectors[:, :chosen] * roots).t()
    left = tall @ vectors[:, :chosen] / roots
    inner = (right.t(), left.t()) if wide else (left, right)
    b = torch.zeros(delta.shape[0], chosen).index_copy(0, rows, inner[0].float())
    a = torch.zeros(chosen, delta.shape[1]).index_copy(1, columns, inner[1].float())
    lost = float((delta.double() - b.double() @ a.double()).square().sum())
    return Approximation(Factors(a=a, b=b, scale=1.0), lost, total, errors)


def _errors(squares: Tensor, total: float) -> tuple[float, ...]:
    """Relative error of each rank from 1 on: the share of the singular values that are left out."""
    beyond = squares.flip(0).cumsum(0).flip(0)
    tails = torch.cat([beyond[1:], beyond.new_zeros(1)])
    return tuple((tails / total).sqrt().tolist())
