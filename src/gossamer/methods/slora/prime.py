"""From an update of single entries to low-rank factors that begin where it ended.

A federated server does the same after its last round of the first stage: every client draws the
same mask from a seed (`random_entries`), so only values travel, and their weighted mean is the
update.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.methods.slora.settings import Split

LORA_ROW_LENGTH = 3**-0.5
"""The expected length of a row of A where LoRA begins: its h_in entries are drawn evenly from
(-1 / sqrt(h_in), 1 / sqrt(h_in)), so their squares add up to 1/3."""

# Squares of singular values below this share of the largest are rounding, not learning.
_ROUNDING = 1e-14


@dataclass(frozen=True)
class Primed:
    """Factors whose product, scaled, is the best approximation of an update of that rank."""

    a: Tensor
    """[r, h_in]; r may be less than asked for, where the update's own rank is."""
    b: Tensor
    """[h_out, r]"""
    kept: float
    """Squared Frobenius norm of scale * b a."""
    total: float
    """Squared Frobenius norm of the update."""

    @property
    def retained(self) -> float:
        """Return the share of the update's energy that the factors hold; 0 if it is nothing."""
        return self.kept / self.total if self.total > 0 else 0.0


def prime_factors(
    index: Tensor,
    values: Tensor,
    shape: tuple[int, int],
    *,
    rank: int,
    scale: float,
    split: Split = "lora",
) -> Primed:
    """B = U_r S_r / (s L) and A = L V_r^T of the update U S V^T, where s is the scale: s B A is its
    best approximation of that rank (arXiv 2308.06522, stage 2) for any lengths L of the rows of A.

    `index` [2, n] and `values` [n] are the update's entries; `split` chooses L. Computed in float64
    through the eigenvectors of the smaller Gram matrix; A and B come in the type of `values`.
    """
    delta = torch.zeros(shape, dtype=torch.float64, device=values.device)
    delta[index[0].long(), index[1].long()] = values.double()
    total = float(delta.square().sum())
    wide = shape[0] <= shape[1]
    gram = delta @ delta.t() if wide else delta.t() @ delta
    squares, vectors = torch.linalg.eigh(gram)
    squares, vectors = squares.flip(0)[:rank], vectors.flip(1)[:, :rank]
    live = squares > _ROUNDING * len(gram) * squares[0]
    squares, vectors = squares[live], vectors[:, live]
    singular = squares.sqrt()
    lengths = _row_lengths(singular / scale, split)
    if wide:
        b, a = vectors * (singular / (scale * lengths)), vectors.t() @ delta
        a *= (lengths / singular)[:, None]
    else:
        b, a = (delta @ vectors) / (scale * lengths), (vectors * lengths).t()
    kept = float(squares.sum())
    return Primed(a=a.to(values.dtype), b=b.to(values.dtype), kept=kept, total=total)


def _row_lengths(singular: Tensor, split: Split) -> Tensor:
    """The lengths of the rows of A, [r], where B A has the singular values `singular`."""
    return torch.full_like(singular, LORA_ROW_LENGTH) if split == "lora" else singular.sqrt()
