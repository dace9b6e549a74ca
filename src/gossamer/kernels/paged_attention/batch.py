"""What paged attention needs to know of one step, and how a block holds keys and values."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayout:
    """A block as keys and values: of each layer [2, its kv_heads, block_tokens, head_dim].

    Where all layers have as many heads, that is [num_layers, 2, num_kv_heads, block_tokens,
    head_dim].
    """

    num_layers: int
    num_kv_heads: int
    """Key/value heads of the layer that has the most."""
    head_dim: int
    block_tokens: int
    dtype: torch.dtype
    layer_kv_heads: tuple[int, ...] = ()
    """Key/value heads of each layer; empty: all have `num_kv_heads`."""

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """The shape of one block as an array, where all layers have as many heads."""
        if self.varies:
            raise ValueError("the layers have unlike numbers of heads: there is no one shape")
        return (self.num_layers, 2, self.num_kv_heads, self.block_tokens, self.head_dim)

    @property
    def varies(self) -> bool:
        """Whether layers have unlike numbers of heads."""
        return len(set(self.layer_kv_heads)) > 1

    @property
    def block_bytes(self) -> int:
        """The number of bytes in one block."""
        return self.block_elements * self.dtype.itemsize

    @property
    def block_elements(self) -> int:
        """The number of elements in one block."""
        return 2 * self.heads_before(self.num_layers) * self.block_tokens * self.head_dim

    def heads_of(self, layer: int) -> int:
        """Key/value heads of a layer."""
        return self.layer_kv_heads[layer] if self.layer_kv_heads else self.num_kv_heads

    def heads_before(self, layer: int) -> int:
        """Key/value heads of all layers before `layer`: where in a block its own begin."""
        if self.layer_kv_heads:
            return sum(self.layer_kv_heads[:layer])
        return layer * self.num_kv_heads

    def view(self, pool: Tensor) -> Tensor:
        """The pool's bytes as keys and values [num_blocks, *shape]."""
        return pool.view(self.dtype).view(-1, *self.shape)

    def layer_view(self, pool: Tensor, layer: int) -> Tensor:
        """The keys and values of a layer [num_blocks, 2, heads, block_tokens, head_dim]."""
        token = self.block_tokens * self.head_dim
        low, heads = 2 * self.heads_before(layer) * token, self.heads_of(layer)
        blocks = pool.view(self.dtype).view(-1, self.block_elements)
        part = blocks[:, low : low + 2 * heads * token]
        return part.view(len(part), 2, heads, self.block_tokens, self.head_dim)


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
