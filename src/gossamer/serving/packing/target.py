"""What adapters are packed for, and what they become: parts for the blocks of one pool."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from gossamer.adapters.base_shape import BaseShape
from gossamer.kernels.paged_attention import KvLayout
from gossamer.serving.packing.base_linear import BaseLinear
from gossamer.serving.packing.rows import RowPacker
from gossamer.serving.packing.shares.low_rank import SplitRowPacker
from gossamer.serving.packing.trained_parts.base import BaseParts
from gossamer.serving.packing.vectors import Empty, host_empty
from gossamer.serving.shard import ALL, Slices


@dataclass(frozen=True, slots=True, kw_only=True)
class PackTarget:
    """One base model and the blocks of its pool, for which adapters are packed."""

    base: BaseShape
    module_ids: Mapping[str, int]
    """Number of each linear layer that can be adapted, by module path."""
    linears: Mapping[str, BaseLinear]
    """These layers themselves, by module path."""
    layout: KvLayout
    rows: RowPacker
    split_rows: SplitRowPacker | None = None
    """The packer of low-rank rows in the place of `rows`, where both factors are divided."""
    parts: BaseParts = field(default_factory=BaseParts)
    """The base's vectors and tables of tokens."""
    empty: Empty = host_empty
    """Allocates the host memory of parts."""
    slices: Slices = ALL
    """What this rank holds of the layers, whose sizes in `base` are the whole ones."""
    sums: Tensor | None = None
    """What `PackedKind.sums` has given, added up over all ranks."""

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return self.layout.block_bytes


class Part(Protocol):
    """One thing that an adapter does, in host memory."""

    @property
    def num_blocks(self) -> int:
        """Blocks that it takes."""

    @property
    def num_bytes(self) -> int:
        """Bytes that it weighs."""

    def place(self, pool: Tensor, blocks: list[int]) -> Any:
        """Copy it into `blocks` of the pool's bytes; returns the table that finds it there."""


Parts = dict[str, Part]
"""What an adapter does, by the field of `Resident` that each part becomes."""
