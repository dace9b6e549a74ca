"""An adapter of any kind, checked and laid out for blocks, and placed in them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.errors import SettingError
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.module_header import ALIGNMENT
from gossamer.kernels.paged_attention import KvLayout
from gossamer.serving.packing.base_linear import BaseLinear
from gossamer.serving.packing.device_tables import HostTables, pack_tables
from gossamer.serving.packing.kinds import PACKED_KINDS
from gossamer.serving.packing.prefix import PrefixPart
from gossamer.serving.packing.resident import Resident
from gossamer.serving.packing.rows import RowPacker
from gossamer.serving.packing.shares.low_rank import SplitRowPacker
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.trained_parts.base import BaseParts
from gossamer.serving.packing.vectors import Empty, host_empty
from gossamer.serving.shard import Slices


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAdapter:
    """A checked adapter in host memory."""

    parts: Parts
    tables: HostTables | None = None
    """What GPU kernels read, behind the parts; None: tables stay in host memory."""

    @property
    def num_blocks(self) -> int:
        """Blocks that it takes: each part begins a block of its own."""
        of_tables = 0 if self.tables is None else self.tables.num_blocks
        return sum(part.num_blocks for part in self.parts.values()) + of_tables

    @property
    def num_bytes(self) -> int:
        """What it weighs; what blocks waste at their ends is not counted."""
        of_tables = 0 if self.tables is None else self.tables.vectors.num_bytes
        return sum(part.num_bytes for part in self.parts.values()) + of_tables

    @property
    def virtual_tokens(self) -> Tensor | None:
        """Embeddings [tokens, hidden] that the base model is to compute, if it is such a prefix."""
        prefix = self.parts.get("prefix")
        return prefix.embeddings if isinstance(prefix, PrefixPart) else None

    def place(self, pool: Tensor, blocks: Sequence[int]) -> Resident:
        """Copy everything into `blocks`; what the base model computes must be there already."""
        tables: dict[str, Any] = {}
        left = list(blocks)
        for field, part in self.parts.items():
            tables[field] = part.place(pool, left[: part.num_blocks])
            left = left[part.num_blocks :]
        if self.tables is None:
            return Resident(**tables)
        of_rows = [tables.pop(field, None) for field in ("lora", "gain", "sparse")]
        return Resident(tables=self.tables.place(pool, blocks, *of_rows), **tables)


class Packer:
    """The packer of adapters for the pool of one base model."""

    def __init__(
        self, base: BaseShape, module_ids: Mapping[str, int], linears: Mapping[str, BaseLinear],
        layout: KvLayout, *, rows: RowFormat | None = None, device_tables: bool = False,
        empty: Empty = host_empty,
    ) -> None:  # fmt: skip
        """rows: the format of all low-rank rows; None: as saved, see `RowPacker`; device_tables:
        kernels read tables from the pool; empty: allocates the host memory of adapters.

        Raises `SettingError` if blocks are not whole 16 bytes and `device_tables` needs them so.
        """
        if device_tables and layout.block_bytes % ALIGNMENT:
            raise SettingError(
                f"setting 'block_tokens' {layout.block_tokens}: a block has {layout.block_bytes} "
                f"bytes, which GPU kernels need to be whole {ALIGNMENT}; give a multiple of 16"
            )
        self._device_tables = device_tables
        self._rows = rows
        self._target = PackTarget(
            base=base,
            module_ids=module_ids,
            linears=linears,
            layout=layout,
            rows=RowPacker(
                module_ids,
                layout.block_bytes,
                rows,
                empty=empty,
            ),
            empty=empty,
        )
        self.low_rank_width = rows.dtype.itemsize if rows is not None else None
        """Bytes of an element of low-rank rows, if not as saved."""

    def with_parts(self, parts: BaseParts) -> "Packer":
        """Return a packer of adapters that may have trained parts too, where `parts` of the base
        are."""
        packer = copy.copy(self)
        packer._target = replace(self._target, parts=parts)
        return packer

    def for_share(self, slices: Slices) -> "Packer":
        """Return a packer of what one rank holds: `slices` of the layers whose whole sizes are
        those of the base."""
        packer = copy.copy(self)
        target = self._target
        split_rows = None
        if slices.split is not None:
            split_rows = SplitRowPacker(
                target.module_ids, target.block_bytes, self._rows, slices, slices.split,
                empty=target.empty,
            )  # fmt: skip
        packer._target = replace(
            target, rows=target.rows.for_share(slices), split_rows=split_rows, slices=slices
        )
        return packer

    def sums_of(self, adapter: Adapter) -> Tensor | None:
        """Return this rank's part of what packing needs the sum of over all ranks, if anything."""
        if self._target.slices.are_whole:
            return None
        kind = PACKED_KINDS[type(adapter)]
        return kind.sums(kind.share(adapter, self._target.slices), self._target)

    def pack(self, adapter: Adapter, sums: Tensor | None = None) -> HostAdapter:
        """Lay out this rank's share of an adapter as it will lie in blocks.

        sums: what `sums_of` has given, added up over all ranks.

        Raises `UnsupportedAdapterError` or `AdapterFormatError` for what cannot be computed here.
        """
        kind = PACKED_KINDS[type(adapter)]
        slices = self._target.slices
        share = adapter if slices.are_whole else kind.share(adapter, slices)
        target = self._target if sums is None else replace(self._target, sums=sums)
        parts = kind.pack(share, target)
        # Edits, prefixes and trained parts have no tables in the pool.
        if not self._device_tables or not {"lora", "gain", "sparse"} & parts.keys():
            return HostAdapter(parts=parts)
        return HostAdapter(parts=parts, tables=pack_tables(adapter.name, parts, target))
