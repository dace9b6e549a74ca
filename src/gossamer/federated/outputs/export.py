"""Writes what a federated run leaves: an adapter of the untouched base."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from gossamer.adapters.kinds.low_rank import Factors
from gossamer.federated.aggregation.tensors import FactorPair, norm_of, spectrum_of, sum_of
from gossamer.federated.client import Learner
from gossamer.methods.common.low_rank import plain_factors, write_factors

_ROUNDING = 1e-7
"""Singular values below this share of a matrix's largest are rounding, not learning."""


def export(
    learner: Learner, merged: Sequence[Mapping[str, FactorPair]], folder: Path, *, rank: int | None
) -> dict[str, float]:
    """Write the adapter into the empty `folder`; returns what is to be told of it.

    Where nothing was added to the base it is the method's own. Else all that was added and the
    last factors are one adapter: exact, with the rank that this takes, or cut to `rank`; then
    `export_error` is the Frobenius norm of what is left out over that of all.
    """
    if not any(merged):
        learner.method.export(learner.model, folder, learner.context)
        return {}
    factors, missed, whole = {}, 0.0, 0.0
    for path, last in plain_factors(learner.model).items():
        parts = [FactorPair(last.a, last.b), *(pairs[path] for pairs in merged if path in pairs)]
        total = sum_of(parts, [1.0] * len(parts))
        kept = _cut(total, rank)
        whole += norm_of(total) ** 2
        missed += norm_of(sum_of([total, kept], [1.0, -1.0])) ** 2 if rank else 0.0
        # The scale of one adapter is the same whatever its rank.
        factors[path] = Factors(a=kept.a, b=kept.b, scale=last.scale)
    write_factors(folder, factors, learner.context)
    highest = max(pair.a.shape[0] for pair in factors.values())
    error = (missed / whole) ** 0.5 if whole else 0.0
    return {"export_rank": highest, **({"export_error": error} if rank else {})}


def _cut(pair: FactorPair, rank: int | None) -> FactorPair:
    """Write the same product with as few components as it has, or as `rank` says."""
    found = spectrum_of(pair)
    count = max(1, int((found.s > _ROUNDING * found.s[:1]).sum()))
    count = min(count, rank or count)
    root = found.s[:count].sqrt()
    a = (root[:, None] * found.vt[:count]).to(torch.float32)
    b = (found.u[:, :count] * root).to(torch.float32)
    return FactorPair(a.contiguous(), b.contiguous())
