"""Matrices with orthonormal rows, kept so while an optimizer moves them.

The stored matrix is the one that acts. Its gradient is projected to the tangent space, which is
the derivative of the polar factor at an orthonormal point, and after each step of the optimizer
the matrix is set to its polar factor, the nearest matrix with orthonormal rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6}
_COARSE = 2e-2


def random_rows(rank: int, width: int) -> Tensor:
    """Draw a matrix [rank, width] with orthonormal rows, uniformly over all such matrices."""
    return torch.nn.init.orthogonal_(torch.empty(rank, width))


def tangent(rows: Tensor) -> Tensor:
    """`rows` [r, d] unchanged; the gradient loses what would only bend the rows' right angles."""
    return _Tangent.apply(rows)  # type: ignore[no-untyped-call]


class _Tangent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        product = gradient @ rows.T
        return gradient - 0.5 * (product + product.T) @ rows


def polar(rows: Tensor) -> Tensor:
    """Return the nearest matrices with orthonormal rows, (R Rᵀ)^(-1/2) R, of `rows` [..., r, d]."""
    values, vectors = torch.linalg.eigh(rows @ rows.mT)
    return vectors @ (values.rsqrt()[..., None] * (vectors.mT @ rows))


@torch.no_grad()
def restore_orthonormal(matrices: Sequence[Tensor]) -> None:
    """Set in place each of the matrices [r, d] to its polar factor, unless its rows are orthonormal
    already up to rounding: then not a bit changes, so what was saved is what acts.

    Matrices that hold no finite number are left as they are.
    """
    groups: dict[tuple[Any, ...], list[Tensor]] = {}
    for matrix in matrices:
        groups.setdefault((matrix.shape, matrix.dtype, matrix.device), []).append(matrix)
    for (shape, dtype, device), group in groups.items():
        # Metal has no float64.
        where = torch.device("cpu") if device.type == "mps" else device
        stacked = torch.stack([matrix.detach() for matrix in group]).to(where, torch.float64)
        eye = torch.eye(shape[0], dtype=torch.float64, device=where)
        error = (stacked @ stacked.mT - eye).abs().amax((1, 2))
        moved = (error > _TOLERANCE.get(dtype, _COARSE)) & error.isfinite()
        chosen = moved.nonzero().flatten().tolist()
        if chosen:
            for index, fresh in zip(chosen, polar(stacked[chosen]), strict=True):
                group[index].copy_(fresh)
