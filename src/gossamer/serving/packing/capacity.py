"""What adapters and tokens weigh in the pool, by arithmetic on a base model's sizes alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gossamer.adapters.base_shape import BaseShape
from gossamer.basemodel.quantize import linear_bytes
from gossamer.kernels.module_header import ALIGNMENT
from gossamer.serving.packing.vectors import lay_out_vectors, padded

FLOAT = 4
"""Bytes of a float32, in which most rows rest, and on a CPU keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSizes:
    """The sizes of a base model, read from its config."""

    shape: BaseShape
    num_parameters: int
    max_context: int
    width: int = FLOAT
    """Bytes of a number in which it is served: of its weights, keys and values."""
    quantization: str = "none"
    """How the weights of its linear layers rest."""
    divided_inputs: frozenset[str] = frozenset()
    """Layers whose inputs are divided among ranks, where these are the sizes of one rank."""

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token in all layers."""
        return 2 * self.shape.total_kv_heads * self.shape.head_dim * self.width

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        if self.quantization == "none":
            return self.num_parameters * self.width
        linears = self.shape.linears.values()
        whole = self.num_parameters - sum(h_out * h_in for h_out, h_in in linears)
        return whole * self.width + sum(
            linear_bytes(self.quantization, *shape) for shape in linears
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The memory that one adapter takes."""

    num_bytes: int
    """The bytes of the adapter's weights."""
    num_blocks: int
    """Blocks; what their ends waste is included."""
    last_bytes: int = 0
    """Bytes of the last block that are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSizes:
    """A pool that adapters of a base model are to lie in."""

    base: BaseSizes
    block_tokens: int
    row_width: int
    """Bytes of an element of low-rank rows: 4, 2 or 1."""
    device_tables: bool = False
    """Whether adapters have their tables in the pool, as GPU kernels need them."""
    split_ranks: int = 1
    """Ranks that divide both factors of low-rank adapters; 1: narrow ends are whole."""

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return self.base.token_bytes * self.block_tokens

    def cost_of(
        self, vectors: Sequence[tuple[int, int]], *, width: int = FLOAT, aligned: bool = False
    ) -> Cost:
        """Tell the cost of vectors (number, elements of `width` bytes), packed as in the pool.

        aligned: each takes whole 16 bytes.
        """
        counts, elements = np.array(vectors, dtype=np.int64).reshape(-1, 2).T
        places = padded(elements, width) if aligned else elements
        layout = lay_out_vectors(np.repeat(places, counts), self.block_bytes // width)
        return Cost(
            num_bytes=int(layout.bounds[-1]) * width,
            num_blocks=len(layout.starts) - 1,
            last_bytes=layout.used_at_end * width,
        )

    def with_tables(self, rows: Cost, sizes: npt.ArrayLike) -> Cost:
        """Add tables, vectors of these bytes, which begin in the last block of the rows; nothing
        where tables lie in host memory."""
        if not self.device_tables:
            return rows
        used = -(-rows.last_bytes // ALIGNMENT) * ALIGNMENT
        layout = lay_out_vectors(sizes, self.block_bytes, used)
        return Cost(
            num_bytes=rows.num_bytes + int(layout.bounds[-1]),
            num_blocks=rows.num_blocks + len(layout.starts) - 1 - (used > 0),
            last_bytes=layout.used_at_end,
        )


def together(*costs: Cost) -> Cost:
    """Add up the parts of one adapter; each begins a block of its own."""
    return Cost(
        num_bytes=sum(cost.num_bytes for cost in costs),
        num_blocks=sum(cost.num_blocks for cost in costs),
        last_bytes=costs[-1].last_bytes,
    )
