"""What paged attention needs to know of one step, and how a block holds keys and values."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayout:
    """A block as keys and values: [num_layers, 2, num_kv_heads, block_tokens, head_dim]."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_tokens: int
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """The shape of one block as an array."""
        return (self.num_layers, 2, self.num_kv_heads, self.block_tokens, self.head_dim)

    @property
    def block_bytes(self) -> int:
        """The number of bytes in one block."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def view(self, pool: Tensor) -> Tensor:
        """The pool's bytes as keys and values [num_blocks, *shape]."""
        return pool.view(self.dtype).view(-1, *self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBatch:
    """Maps the T tokens of a step to their S sequences and blocks; each sequence is contiguous."""

    positions: IntArray  # [T] place in the sequence's blocks, counted from their beginning
    sequence_start: IntArray  # [S] first place that is part of the sequence; 0 but for prefixes
    token_sequence: IntArray  # [T]
    token_block: IntArray  # [T] block that takes the token's keys and values
    token_index: IntArray  # [T] place within that block
    block_tables: IntArray  # [S, longest] blocks of each sequence, in order
    short_tokens: IntArray  # [D] tokens computed one by one (decodes, short chunks)
    short_bounds: IntArray  # [workers + 1] short tokens of each worker: equal cost
    long_chunks: tuple[tuple[int, int, int], ...]
    """The prefill chunks that take matrix products, each as (first token, tokens, sequence)."""
