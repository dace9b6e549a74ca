"""An adapter of any kind, checked and laid out for blocks, and placed in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from gossamer.adapters.kinds.dora import DoraAdapter
from gossamer.adapters.kinds.ia3 import Ia3Adapter
from gossamer.adapters.kinds.intervention import InterventionAdapter
from gossamer.adapters.kinds.low_rank import LowRankAdapter
from gossamer.adapters.kinds.prefix import PrefixAdapter
from gossamer.adapters.kinds.sparse_delta import SparseAdapter
from gossamer.adapters.load import Adapter, BaseShape
from gossamer.errors import UnsupportedAdapterError
from gossamer.kernels.grouped_lora import LoraTable
from gossamer.kernels.paged_attention import KvLayout
from gossamer.serving.packing.base_linear import BaseLinear
from gossamer.serving.packing.gain import GainPart, dora_gains, pack_gains
from gossamer.serving.packing.hidden_edit import pack_edits
from gossamer.serving.packing.low_rank import HostRows, RowPacker, write_rows
from gossamer.serving.packing.resident import PrefixPart, Resident
from gossamer.serving.packing.sparse_delta import pack_sparse


class Part(Protocol):
    """One thing that an adapter does, in host memory."""

    @property
    def num_blocks(self) -> int:
        """Blocks that it takes."""

    @property
    def num_bytes(self) -> int:
        """What it weighs."""


class PlacedPart(Part, Protocol):
    """A part that only has to be copied."""

    def place(self, pool: Tensor, blocks: list[int]) -> Any:
        """Copy into `blocks` of the pool's bytes; returns the table that finds it there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraPart:
    """Low-rank rows."""

    rows: HostRows

    @property
    def num_blocks(self) -> int:
        """Blocks that they take."""
        return self.rows.num_blocks

    @property
    def num_bytes(self) -> int:
        """What they weigh."""
        return self.rows.num_bytes

    def place(self, pool: Tensor, blocks: list[int]) -> LoraTable:
        """Copy into `blocks` of the pool's bytes."""
        return write_rows(self.rows, pool, blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAdapter:
    """A checked adapter in host memory."""

    parts: dict[str, PlacedPart]
    """By the field of `Resident` that they become."""

    @property
    def num_blocks(self) -> int:
        """Blocks that it takes: each part begins a block of its own."""
        return sum(part.num_blocks for part in self.parts.values())

    @property
    def num_bytes(self) -> int:
        """What it weighs; what blocks waste at their ends is not counted."""
        return sum(part.num_bytes for part in self.parts.values())

    @property
    def virtual_tokens(self) -> Tensor | None:
        """Embeddings [tokens, hidden] that the base model is to compute, if it is such a prefix."""
        prefix = self.parts.get("prefix")
        return prefix.adapter.embeddings if isinstance(prefix, PrefixPart) else None

    def place(self, pool: Tensor, blocks: Sequence[int]) -> Resident:
        """Copy everything into `blocks`; what the base model computes must be there already."""
        tables: dict[str, Any] = {}
        left = list(blocks)
        for field, part in self.parts.items():
            tables[field] = part.place(pool, left[: part.num_blocks])
            left = left[part.num_blocks :]
        return Resident(**tables)


class Packer:
    """Lays adapters out for the pool of one base model."""

    def __init__(
        self, base: BaseShape, module_ids: Mapping[str, int], linears: Mapping[str, BaseLinear],
        layout: KvLayout, *, int8: bool = False,
    ) -> None:  # fmt: skip
        """int8: round low-rank rows to whole numbers, each row with a scale."""
        self._base = base
        self._ids = module_ids
        self._linears = linears
        self._layout = layout
        self._rows = RowPacker(module_ids, layout.block_bytes, int8=int8)
        self.low_rank_width = 1 if int8 else None
        """Bytes of an element of low-rank rows, if not as saved."""

    def pack(self, adapter: Adapter) -> HostAdapter:
        """`adapter` as it will lie in blocks.

        Raises `UnsupportedAdapterError` or `AdapterFormatError` for what cannot be computed here.
        """
        block_bytes = self._layout.block_bytes
        if isinstance(adapter, PrefixAdapter):
            return HostAdapter(parts={"prefix": PrefixPart(adapter=adapter, layout=self._layout)})
        if isinstance(adapter, DoraAdapter):
            gains = dora_gains(adapter, self._linears)
            gain = pack_gains(gains, {}, self._ids, block_bytes, keeps_bias=True)
            return HostAdapter(parts={"lora": self._lora(adapter), "gain": gain})
        if isinstance(adapter, LowRankAdapter):
            return HostAdapter(parts={"lora": self._lora(adapter)})
        if isinstance(adapter, Ia3Adapter):
            return HostAdapter(parts={"gain": self._ia3(adapter)})
        if isinstance(adapter, InterventionAdapter):
            return HostAdapter(
                parts={"edit": pack_edits(adapter, self._base.num_layers, block_bytes)}
            )
        assert isinstance(adapter, SparseAdapter)
        return HostAdapter(parts={"sparse": pack_sparse(adapter.deltas, self._ids, block_bytes)})

    def _lora(self, adapter: LowRankAdapter) -> LoraPart:
        return LoraPart(rows=self._rows.pack(adapter))

    def _ia3(self, adapter: Ia3Adapter) -> GainPart:
        for path in adapter.inputs:
            if not self._linears[path].is_alone:
                raise UnsupportedAdapterError(
                    f"adapter {adapter.name} scales the input of {path}, which is computed "
                    "together with layers of the same input; merge it with "
                    "`gossamer adapters merge` and serve the result"
                )
        block_bytes = self._layout.block_bytes
        return pack_gains(adapter.outputs, adapter.inputs, self._ids, block_bytes, keeps_bias=False)
