"""One row per kind of adapter: how it lies in the pool, and what it costs there.

The rows of `gossamer.adapters.kinds.table` know the same kinds by their files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.kinds.dora import DoraAdapter
from gossamer.adapters.kinds.ia3 import Ia3Adapter
from gossamer.adapters.kinds.intervention import InterventionAdapter
from gossamer.adapters.kinds.low_rank import LowRankAdapter
from gossamer.adapters.kinds.mixed import MixedAdapter
from gossamer.adapters.kinds.networks.bottleneck import BottleneckAdapter
from gossamer.adapters.kinds.networks.side_network import SideAdapter
from gossamer.adapters.kinds.networks.two_streams import TwoStreamAdapter
from gossamer.adapters.kinds.prefix import PrefixAdapter
from gossamer.adapters.kinds.sparse_delta import SparseAdapter
from gossamer.adapters.kinds.tokens import TokenAdapter
from gossamer.adapters.kinds.vector import VectorAdapter
from gossamer.serving.packing.capacity import Cost, PoolSizes
from gossamer.serving.packing.gain import cost_of_dora, pack_dora, pack_ia3, partial_squares
from gossamer.serving.packing.hidden_edit import cost_of_intervention, pack_intervention
from gossamer.serving.packing.low_rank import cost_of_low_rank, pack_low_rank
from gossamer.serving.packing.prefix import cost_of_prefix, pack_prefix
from gossamer.serving.packing.shares.kinds import (
    share_of_dora,
    share_of_ia3,
    share_of_prefix,
    share_of_sparse,
)
from gossamer.serving.packing.sparse_delta import cost_of_sparse, pack_sparse_adapter
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.trained_parts.bottleneck import cost_of_bottleneck, pack_bottleneck
from gossamer.serving.packing.trained_parts.mixed import (
    cost_of_mixed,
    pack_mixed,
    share_of_mixed,
    sums_of_mixed,
)
from gossamer.serving.packing.trained_parts.side_network import cost_of_side, pack_side
from gossamer.serving.packing.trained_parts.streams import cost_of_streams, pack_streams
from gossamer.serving.packing.trained_parts.token_rows import cost_of_tokens, pack_tokens
from gossamer.serving.packing.trained_parts.vectors import cost_of_vectors, pack_vector
from gossamer.serving.shard import Slices


@dataclass(frozen=True, kw_only=True)
class PackedKind:
    """A row of the table: what is to be known of a kind of adapter to serve it."""

    pack: Callable[[Any, PackTarget], Parts]
    """Lays an adapter out for blocks."""
    share: Callable[[Any, Slices], Any] = lambda adapter, slices: adapter
    """What one rank packs of an adapter; by default all of it, of which `pack` takes a share."""
    sums: Callable[[Any, PackTarget], Tensor | None] = lambda share, target: None
    """A rank's part of what packing a share needs the sum of over all ranks."""
    cost: Callable[[PoolSizes], dict[str, Cost]] = lambda pool: {}
    """What usual adapters take, by what they are; the table of `gossamer plan`."""


PACKED_KINDS: dict[type[Adapter], PackedKind] = {
    LowRankAdapter: PackedKind(pack=pack_low_rank, cost=cost_of_low_rank),
    DoraAdapter: PackedKind(
        pack=pack_dora, cost=cost_of_dora, share=share_of_dora, sums=partial_squares
    ),
    Ia3Adapter: PackedKind(pack=pack_ia3, share=share_of_ia3),
    SparseAdapter: PackedKind(pack=pack_sparse_adapter, cost=cost_of_sparse, share=share_of_sparse),
    InterventionAdapter: PackedKind(pack=pack_intervention, cost=cost_of_intervention),
    PrefixAdapter: PackedKind(pack=pack_prefix, cost=cost_of_prefix, share=share_of_prefix),
    VectorAdapter: PackedKind(pack=pack_vector, cost=cost_of_vectors),
    TokenAdapter: PackedKind(pack=pack_tokens, cost=cost_of_tokens),
    BottleneckAdapter: PackedKind(pack=pack_bottleneck, cost=cost_of_bottleneck),
    SideAdapter: PackedKind(pack=pack_side, cost=cost_of_side),
    TwoStreamAdapter: PackedKind(pack=pack_streams, cost=cost_of_streams),
    MixedAdapter: PackedKind(
        pack=pack_mixed, cost=cost_of_mixed, share=share_of_mixed, sums=sums_of_mixed
    ),
}


def usual_costs(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of usual adapters of all kinds, by what they are."""
    costs: dict[str, Cost] = {}
    for kind in PACKED_KINDS.values():
        costs |= kind.cost(pool)
    return costs
