"""The tables that GPU kernels read, as vectors behind an adapter's own rows.

How many blocks they take is known when the adapter is packed; what they say, when it is placed.
They begin in the last block of the rows, where those leave room.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.errors import UnsupportedAdapterError
from gossamer.kernels.gain import GainTable
from gossamer.kernels.grouped_lora import LoraTable, RowFormat
from gossamer.kernels.grouped_lora import device_table as lora_table
from gossamer.kernels.module_header import ALIGNMENT
from gossamer.kernels.sparse_delta import SparseTable
from gossamer.kernels.sparse_delta import device_table as sparse_table
from gossamer.kernels.sparse_delta.device_table import BandOrder
from gossamer.serving.packing.gain import GainPart
from gossamer.serving.packing.resident import DeviceTables
from gossamer.serving.packing.rows import HostRows
from gossamer.serving.packing.sparse_delta import SparsePart
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.vectors import VectorPart, Vectors, lay_out_vectors

LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTables:
    """The tables of one adapter in host memory; `place` fills them in."""

    vectors: Vectors
    """Bytes: the vectors of the table of rows and gains, then those of the sparse one."""
    num_lora: int
    """Vectors of the table of rows and gains; 0: there is none."""
    bands: BandOrder | None
    """The bands of the sparse table, if there is one."""
    facts: DeviceTables
    """What is said of them; the places come with the blocks."""

    @property
    def num_blocks(self) -> int:
        """Blocks that it takes beside those of the rows."""
        return self.vectors.num_blocks - (self.vectors.layout.used > 0)

    def place(
        self,
        pool: Tensor,
        blocks: Sequence[int],
        lora: LoraTable | None,
        gain: GainTable | None,
        sparse: SparseTable | None,
    ) -> DeviceTables:
        """Write the tables of an adapter that lies in `blocks`, all its blocks, and copy them.

        An earlier copy must be done: it is made from the same host memory.
        """
        own = blocks[len(blocks) - self.vectors.num_blocks :]
        places = self.vectors.offsets(own)
        middle = self.num_lora
        data = self.vectors.data.numpy()
        cut = int(self.vectors.layout.bounds[middle])
        if middle:
            lora_table.write_table(lora, gain, places[:middle], data[:cut])
        if self.bands is not None:
            assert sparse is not None
            sparse_table.write_places(sparse.offset, self.bands, places[middle:], data[cut:])
        self.vectors.write(pool, own)
        return DeviceTables(
            lora=int(places[0]) if middle else -1,
            sparse=int(places[middle]) if self.bands is not None else -1,
            cost=self.facts.cost,
            scaled_inputs=self.facts.scaled_inputs,
            row_format=self.facts.row_format,
            half_values=self.facts.half_values,
        )


def pack_tables(name: str, parts: Parts, target: PackTarget) -> HostTables:
    """Lay out the tables of the adapter `name`, which has these parts.

    Raises `UnsupportedAdapterError` for a rank that the kernels have no room for, and for a table
    of which a vector is longer than a block.
    """
    lora, gain, sparse = parts.get("lora"), parts.get("gain"), parts.get("sparse")
    assert lora is None or isinstance(lora, HostRows)
    assert gain is None or isinstance(gain, GainPart)
    assert sparse is None or isinstance(sparse, SparsePart)
    of_lora = of_sparse = np.zeros(0, dtype=np.int64)
    if lora is not None or gain is not None:
        rank = None if lora is None else _checked_rank(name, lora.table)
        row_format = RowFormat.FLOAT32 if lora is None else lora.table.format
        of_lora = lora_table.vector_bytes(len(target.module_ids), rank, row_format)
    bands = None
    if sparse is not None:
        bands = sparse_table.order_bands(sparse.table, _widths(target))
        of_sparse = bands.vector_bytes
    sizes = np.concatenate([of_lora, of_sparse])
    _require_fit(name, int(sizes.max(initial=0)), target)
    data = target.empty(int(sizes.sum()), torch.uint8)
    if sparse is not None and bands is not None:
        sparse_table.write_fixed(sparse.table, bands, data.numpy()[int(of_lora.sum()) :])
    layout = lay_out_vectors(sizes, target.block_bytes, _used_at_end(parts))
    cost = 0
    if lora is not None:
        cost += int(lora.table.rank.sum(dtype=np.int64))
    if sparse is not None:
        cost += int(sparse.table.length.sum(dtype=np.int64))
    return HostTables(
        vectors=Vectors(data=data, layout=layout),
        num_lora=len(of_lora),
        bands=bands,
        facts=DeviceTables(
            cost=float(cost),
            scaled_inputs=frozenset() if gain is None else gain.scaled_inputs,
            row_format=None if lora is None else lora.table.format,
            half_values=None if sparse is None else sparse.table.half,
        ),
    )


def _checked_rank(name: str, table: LoraTable) -> npt.NDArray[np.int32]:
    highest, most = int(table.rank.max(initial=0)), lora_table.MAX_RANK
    if highest > most:
        raise UnsupportedAdapterError(
            f"adapter {name} has rank {highest}; on a GPU it may be {most} at most: merge it with "
            "`gossamer adapters merge` and serve the result, or serve it with device=cpu"
        )
    return table.rank


def _require_fit(name: str, longest: int, target: PackTarget) -> None:
    if longest > target.block_bytes:
        token_bytes = target.block_bytes // target.layout.block_tokens
        raise UnsupportedAdapterError(
            f"adapter {name} has a table of {longest} bytes, and a block has {target.block_bytes}; "
            f"serve with --block-tokens {-(-longest // token_bytes)} or more"
        )


def _used_at_end(parts: Parts) -> int:
    """Bytes of the adapter's last block that its parts take, whole `ALIGNMENT`s."""
    last = list(parts.values())[-1]
    if not isinstance(last, VectorPart):
        return 0
    used = last.vectors.layout.used_at_end * last.vectors.data.itemsize
    return -(-used // ALIGNMENT) * ALIGNMENT


def _widths(target: PackTarget) -> LongArray:
    """h_out of each module of the whole model, by its id."""
    linears: Mapping[str, tuple[int, int]] = target.base.linears
    widths = np.zeros(len(target.module_ids), dtype=np.int64)
    for path, module in target.module_ids.items():
        widths[module] = linears[path][0]
    return widths
