"""Singular vectors of pretrained weights, and ranks that follow their spectra."""

import heapq
from collections.abc import Mapping

import torch
from torch import Tensor

_EXTRA = 8
_ITERATIONS = 6
_SEED = 0x1A3DA


@torch.no_grad()
def leading_part(weight: Tensor, rank: int, *, exact: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [out, r], sigma [r], V [r, in] of the largest singular values, descending.

    Not `exact`: randomised subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061), which
    finds the same subspace where the spectrum falls off and always the same one for a weight.
    """
    weight = weight.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    if exact or min(weight.shape) <= 2 * (rank + _EXTRA):
        u, sigma, v = torch.linalg.svd(weight, full_matrices=False)
        return u[:, :rank].contiguous(), sigma[:rank], v[:rank].contiguous()
    generator = torch.Generator().manual_seed(_SEED)
    start = torch.randn(weight.shape[1], rank + _EXTRA, generator=generator, dtype=weight.dtype)
    basis = torch.linalg.qr(weight @ start.to(weight.device)).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.T @ basis).Q).Q
    u, sigma, v = torch.linalg.svd(basis.T @ weight, full_matrices=False)
    return (basis @ u[:, :rank]).contiguous(), sigma[:rank], v[:rank].contiguous()


def energy_share(weight: Tensor, rank: int, *, exact: bool) -> float:
    """Return the share of the squared singular values that the `rank` largest hold, 0 to 1."""
    _, sigma, _ = leading_part(weight, rank, exact=exact)
    total = weight.float().square().sum()
    return float((sigma.float().square().sum() / total).clamp(max=1.0)) if total > 0 else 1.0


def allocate_ranks(
    shares: Mapping[str, float], limits: Mapping[str, int], rank: int
) -> dict[str, int]:
    """Share out ranks: layers whose `rank` largest singular values hold less get more.

    A layer's rank is in proportion to the energy that is left out, 1 - share, but at least half of
    `rank` and at most twice it or the layer's limit. The ranks add up to `rank` times the number of
    layers exactly. Raises `ValueError` if a limit is below `rank`.
    """
    if min(limits.values()) < rank:
        raise ValueError(f"rank {rank} is above the smaller side of a layer")
    left_out = {name: max(1e-12, 1.0 - share) for name, share in shares.items()}
    budget = rank * len(shares)
    total = sum(left_out.values())
    wanted = {name: budget * value / total for name, value in left_out.items()}
    low = max(1, rank // 2)
    ranks = dict.fromkeys(shares, low)
    queue = [(low - wanted[name], name) for name in sorted(shares)]
    heapq.heapify(queue)
    for _ in range(budget - low * len(shares)):
        lack, name = heapq.heappop(queue)
        ranks[name] += 1
        if ranks[name] < min(2 * rank, limits[name]):
            heapq.heappush(queue, (lack + 1, name))
    return ranks
