"""Tensors that clients send: pairs of factors among them, weighted means, sums of products.

Tensors go by the names of the parameters that they are. A pair is A [r, h_in] and B [h_out, r] of
one layer; what it changes is scale * B A, with one scale for all clients and ranks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

_FACTOR = re.compile(r"(?P<path>.+)\.s?lora_(?P<part>[AB])\.(?P<adapter>\w+)(\.weight)?")
_WRAPPERS = "base_model.model."


@dataclass(frozen=True, slots=True)
class Upload:
    """What one client has learnt in a round."""

    tensors: Mapping[str, Tensor]
    """Only what learnt: a factor that was held fixed is not among it."""
    weight: float
    """The client's share of the rows of all clients of the round."""
    rank: int | None = None
    """The client's rank, where it is lower than the server's; None: the server's."""


@dataclass(frozen=True, slots=True)
class FactorPair:
    """A sum of products of thin matrices, as one."""

    a: Tensor
    """[r, h_in]"""
    b: Tensor
    """[h_out, r]"""

    @property
    def size(self) -> int:
        """Return the number of its values."""
        return self.a.numel() + self.b.numel()


def part_of(name: str) -> str | None:
    """Return "A" or "B" if the parameter is such a factor of a layer, else None."""
    match = _FACTOR.fullmatch(name)
    return match["part"] if match else None


def learns(name: str, parts: frozenset[str] | None) -> bool:
    """Tell whether a parameter learns where only some of the factors do; None: all do."""
    part = part_of(name)
    return parts is None or part is None or part in parts


def pair_names(names: Mapping[str, Tensor]) -> dict[str, tuple[str, str]]:
    """Return the names of A and B by the path of their layer in the base model."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _FACTOR.fullmatch(name):
            path = match["path"].removeprefix(_WRAPPERS)
            found.setdefault(path, {})[match["part"]] = name
    return {path: (pair["A"], pair["B"]) for path, pair in found.items()}


def cut_to_rank(name: str, tensor: Tensor, rank: int | None) -> Tensor:
    """Return the first `rank` components of a factor; of all else, and without a rank, all."""
    part = part_of(name)
    if rank is None or part is None:
        return tensor
    return tensor[:rank] if part == "A" else tensor[:, :rank]


def pad_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return `tensor` filled up with zeros behind to the shape of `like`."""
    if tensor.shape == like.shape:
        return tensor
    whole = torch.zeros(like.shape, dtype=tensor.dtype, device=tensor.device)
    whole[tuple(slice(size) for size in tensor.shape)] = tensor
    return whole


def mean_of(name: str, before: Tensor, uploads: Sequence[Upload]) -> Tensor:
    """Return the weighted mean of a tensor, summed in float64, in the type of `before`; clients
    with a lower rank count with zeros. `before` if no client has learnt it."""
    if not all(name in upload.tensors for upload in uploads):
        return before
    total = torch.zeros(before.shape, dtype=torch.float64)
    for upload in uploads:
        total += upload.weight * pad_like(upload.tensors[name], before).double()
    return total.to(before.dtype)


def client_pairs(
    names: tuple[str, str], before: Mapping[str, Tensor], uploads: Sequence[Upload]
) -> list[FactorPair]:
    """Return the factors that each client ends the round with; fixed ones are the server's."""
    a, b = names

    def held(name: str, upload: Upload) -> Tensor:
        fixed = cut_to_rank(name, before[name], upload.rank)
        return upload.tensors.get(name, fixed)

    return [FactorPair(held(a, upload), held(b, upload)) for upload in uploads]


def sum_of(pairs: Sequence[FactorPair], weights: Sequence[float]) -> FactorPair:
    """Return sum_i w_i B_i A_i as one pair: [A_1; A_2; ...] and [w_1 B_1, w_2 B_2, ...]."""
    b = [
        (weight * pair.b.double()).to(pair.b.dtype)
        for pair, weight in zip(pairs, weights, strict=False)
    ]
    return FactorPair(torch.cat([pair.a for pair in pairs]), torch.cat(b, dim=1))


def norm_of(pair: FactorPair) -> float:
    """Return the Frobenius norm of B A, without making it; exact to the root of float64's digits
    where terms cancel."""
    a, b = pair.a.double(), pair.b.double()
    return float(((b.t() @ b) * (a @ a.t())).sum().clamp(min=0).sqrt())


@dataclass(frozen=True, slots=True)
class Spectrum:
    """U S V^T = B A of a pair."""

    u: Tensor
    """[h_out, n]"""
    s: Tensor
    """[n], descending"""
    vt: Tensor
    """[n, h_in]"""


def spectrum_of(pair: FactorPair) -> Spectrum:
    """Decompose B A in float64 by the decomposition of a core that is as small as the rank."""
    left, upper = torch.linalg.qr(pair.b.double())
    right, lower = torch.linalg.qr(pair.a.double().t())
    u, s, vt = torch.linalg.svd(upper @ lower.t(), full_matrices=False)
    return Spectrum(left @ u, s, vt @ right.t())
