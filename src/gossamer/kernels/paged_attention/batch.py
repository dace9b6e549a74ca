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
class SequencePages:
    """The S sequences of a step and their blocks as lists, one behind the other; int32 tensors.

    For kernels that take all tokens of a sequence together. Each sequence begins with its first
    block, and the step's tokens are its last. Those that only fill a step up have one token in one
    block.
    """

    first_token: Tensor  # [S + 1] on the host: the first token of each sequence, and T
    first_page: Tensor  # [S + 1] on the host: where its blocks begin in `pages`, and their end
    last_page_tokens: Tensor  # [S] on the host: places of its last block that are used, 1 or more
    pages: Tensor  # [first_page[S] or more] on the device: blocks
    is_replayed: bool
    """Whether other steps of S sequences, one token each, and as many places for blocks are
    computed by what was captured for this one."""


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
