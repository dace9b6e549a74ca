"""Low-rank factors and further trained parts of one adapter."""

from dataclasses import replace

from torch import Tensor

from gossamer.adapters.kinds.dora import DoraAdapter
from gossamer.adapters.kinds.mixed import MixedAdapter
from gossamer.serving.packing.capacity import Cost, PoolSizes, together
from gossamer.serving.packing.gain import pack_dora, partial_squares
from gossamer.serving.packing.low_rank import cost_of_rank, pack_low_rank
from gossamer.serving.packing.shares.kinds import share_of_dora
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.trained_parts.table_factors import factor_parts
from gossamer.serving.packing.trained_parts.token_rows import cost_of_tokens, row_parts
from gossamer.serving.packing.trained_parts.vectors import shift_parts
from gossamer.serving.shard import Slices


def pack_mixed(adapter: MixedAdapter, target: PackTarget) -> Parts:
    """Lay out the factors, then what was trained beside them. Raises as those who do that."""
    inner = adapter.inner
    factors: Parts = {}
    if isinstance(inner, DoraAdapter):
        factors = pack_dora(inner, target)
    elif inner.modules:
        factors = pack_low_rank(inner, target)
    beside = {
        **shift_parts(adapter.parts, target),
        **row_parts(adapter.parts, target),
        **factor_parts(adapter.name, adapter.parts.factors, target),
    }
    # Tables for GPU kernels begin in the last block of the factors.
    return {**beside, **factors}


def share_of_mixed(adapter: MixedAdapter, slices: Slices) -> MixedAdapter:
    """Return `adapter` with a rank's share of its factors; its other parts stay whole."""
    if not isinstance(adapter.inner, DoraAdapter):
        return adapter
    return replace(adapter, inner=share_of_dora(adapter.inner, slices))


def sums_of_mixed(adapter: MixedAdapter, target: PackTarget) -> Tensor | None:
    """Return what packing its factors needs the sum of over all ranks; see `PackedKind.sums`."""
    inner = adapter.inner
    return partial_squares(inner, target) if isinstance(inner, DoraAdapter) else None


def cost_of_mixed(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of low-rank rows and ten new tokens."""
    rank = 16
    (tokens,) = cost_of_tokens(pool).values()
    return {f"mixed: low-rank {rank}, 10 tokens": together(tokens, cost_of_rank(pool, rank))}
