"""The basis in which gradients are sparse: HOSVD of gradients stacked over layers and batches.

The left singular vectors of an unfolding are the eigenvectors of the sum of G G^T (or G^T G) over
all slices G, so two square sums take the place of the stack: nothing grows with the number of
slices (SparseGrad, arXiv 2410.07383, stacks up to 450 of them).
"""

import torch
from torch import Tensor, nn


class Basis(nn.Module):
    """Orthogonal U [in, in] and V [out, out] in float32, shared by all layers of one name.

    A weight W [out, in] becomes V^T W U^T; inputs X become X U^T, output gradients g become g V.
    """

    u: Tensor
    v: Tensor

    def __init__(self, u: Tensor, v: Tensor) -> None:
        super().__init__()
        self.register_buffer("u", u.float())
        self.register_buffer("v", v.float())

    def enter(self, weight: Tensor) -> Tensor:
        """Return V^T W U^T in float32."""
        return self.v.T @ weight.float() @ self.u.T

    def leave(self, weight: Tensor) -> Tensor:
        """Return V W U in float32: the inverse of `enter`."""
        return self.v @ weight @ self.u


class GradientModes:
    """Sums of G G^T and G^T G over gradients G [out, in]."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.left = torch.zeros(rows, rows, device=device)
        self.right = torch.zeros(columns, columns, device=device)

    def add(self, gradient: Tensor) -> None:
        """Take one more slice in."""
        gradient = gradient.float()
        self.left.addmm_(gradient, gradient.T)
        self.right.addmm_(gradient.T, gradient)

    def basis(self) -> Basis:
        """Return the basis of singular vectors, the strongest first."""
        return Basis(_vectors(self.right).T, _vectors(self.left))


def _vectors(symmetric: Tensor) -> Tensor:
    # In float64: squares of singular values span twice the digits.
    _, vectors = torch.linalg.eigh(symmetric.double())
    return vectors.flip(1).contiguous()
