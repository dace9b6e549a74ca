"""Launches the Triton kernels of paged attention."""

from typing import NamedTuple

from torch import Tensor

from gossamer.kernels.attention_work import QUERIES, SPLIT_TOKENS, AttentionArrays, arrays_of
from gossamer.kernels.paged_attention import triton_kernels
from gossamer.kernels.paged_attention.batch import AttentionBatch, KvLayout
from gossamer.kernels.paged_attention.triton_kernels import (
    DECODE,
    PREFILL,
    decode_kernel,
    merge_kernel,
    prefill_kernel,
    write_kv_kernel,
)
from gossamer.kernels.scratch import ScratchMemory


def power_of_2(number: int) -> int:
    """Return the least power of two that is not below `number`, 1 or more."""
    return 1 << (number - 1).bit_length()


class _Scores(NamedTuple):
    """What becomes of scores before the softmax, besides the scale."""

    window: int
    softcap: float
    sinks: Tensor | None

    def sinks_or(self, other: Tensor) -> Tensor:
        """The sinks, or something that is not read."""
        return other if self.sinks is None else self.sinks


class TritonPagedAttention:
    """The operation for all layers of a model over one pool, on the pool's device."""

    def __init__(self, pool: Tensor, layout: KvLayout) -> None:
        """pool: bytes of the block pool, uint8 [num_blocks * block_bytes]."""
        self._pool = pool.view(layout.dtype)
        self._layout = layout
        self.scratch = tuple(ScratchMemory(pool.device) for _ in range(3))
        """The splits' weighted values, largest scores and sums, from one launch to the next.

        Only what the step itself has written is read.
        """
        self._last: tuple[AttentionBatch, AttentionArrays] | None = None

    def plan(self, batch: AttentionBatch | AttentionArrays) -> None:
        """See `PagedAttention.plan`: the lowering has cut the work already."""

    def __call__(
        self, batch: AttentionBatch | AttentionArrays, layer: int, query: Tensor, key: Tensor,
        value: Tensor, scale: float, window: int = 0, softcap: float = 0.0,
        sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Store the tokens' keys and values, then attend.

        query [T, num_heads, head_dim], key and value [T, num_kv_heads, head_dim]: each head_dim
        contiguous, else any views; returns [T, num_heads, head_dim], where rows of tokens that no
        piece of work names hold anything. window, softcap, sinks: see `PagedAttention.__call__`.
        """
        arrays = batch if isinstance(batch, AttentionArrays) else self._arrays(batch)
        if query.stride(2) != 1:
            raise ValueError("queries must be contiguous within a head")
        self.write(arrays, layer, key, value)
        blocks = self._blocks(layer)
        out = query.new_empty(query.shape)
        scores = _Scores(window, float(softcap), sinks)
        if len(arrays.decode_token):
            self._decode(arrays, layer, query, out, blocks, scale, scores)
        if len(arrays.chunk_first):
            self._prefill(arrays, layer, query, out, blocks, scale, scores)
        return out

    def _arrays(self, batch: AttentionBatch) -> AttentionArrays:
        """Arrays of a step, made at its first layer."""
        if self._last is None or self._last[0] is not batch:
            self._last = batch, arrays_of(batch, self._pool.device)
        return self._last[1]

    def _blocks(self, layer: int) -> tuple[Tensor, int, int, int]:
        """The pool, and the elements from a block to the next, to the layer, and to its values."""
        layout = self._layout
        head = layout.block_tokens * layout.head_dim
        before, own = layout.heads_before(layer), layout.heads_of(layer)
        return self._pool, layout.block_elements, 2 * head * before, head * own

    def write(self, arrays: AttentionArrays, layer: int, key: Tensor, value: Tensor) -> None:
        """Store the tokens' keys and values [T, num_kv_heads, head_dim], as `__call__` does."""
        if not key.stride(2) == value.stride(2) == 1:
            raise ValueError("keys and values must be contiguous within a head")
        layout, blocks = self._layout, self._blocks(layer)
        heads = layout.heads_of(layer)
        write_kv_kernel[(len(key),)](
            key, key.stride(0), key.stride(1), value, value.stride(0), value.stride(1), *blocks,
            arrays.token_block, arrays.token_index,
            HEADS=heads, HEADS_PADDED=power_of_2(heads),
            D=layout.head_dim, D_PADDED=power_of_2(layout.head_dim),
            BLOCK_TOKENS=layout.block_tokens, num_warps=4,
        )  # fmt: skip

    def _decode(
        self, arrays: AttentionArrays, layer: int, query: Tensor, out: Tensor,
        blocks: tuple[Tensor, int, int, int], scale: float, scores: _Scores,
    ) -> None:  # fmt: skip
        layout, launch = self._layout, DECODE[query.itemsize]
        heads, splits = query.shape[1], len(arrays.split_token)
        kv_heads = layout.heads_of(layer)
        group = heads // kv_heads
        padded = max(16, power_of_2(layout.head_dim))
        sizes = (splits * heads * layout.head_dim, splits * heads, splits * heads)
        scratch = [each.take(size) for each, size in zip(self.scratch, sizes, strict=True)]
        places = (arrays.token_sequence, arrays.positions, arrays.sequence_start)
        decode_kernel[(kv_heads, splits)](
            query, query.stride(0), query.stride(1), *blocks, arrays.block_tables,
            arrays.block_tables.stride(0), *places, arrays.split_token, arrays.split_place,
            *scratch, scale,
            HEADS=kv_heads, GROUP=group,
            GROUP_PADDED=max(16, power_of_2(group)), D=layout.head_dim, D_PADDED=padded,
            BLOCK_TOKENS=layout.block_tokens, TILE_=launch.tile, SPLIT=SPLIT_TOKENS,
            WINDOW=scores.window, SOFTCAP=scores.softcap,
            num_warps=launch.num_warps, num_stages=launch.num_stages,
        )  # fmt: skip
        merge_kernel[(heads, len(arrays.decode_token))](
            *scratch, out, scores.sinks_or(out), *places, arrays.decode_token, arrays.decode_split,
            QUERY_HEADS=heads, D=layout.head_dim, D_PADDED=padded, SPLIT=SPLIT_TOKENS,
            MERGED_=triton_kernels.MERGED, WINDOW=scores.window,
            HAS_SINKS=scores.sinks is not None, num_warps=4,
        )  # fmt: skip

    def _prefill(
        self, arrays: AttentionArrays, layer: int, query: Tensor, out: Tensor,
        blocks: tuple[Tensor, int, int, int], scale: float, scores: _Scores,
    ) -> None:  # fmt: skip
        layout, launch = self._layout, PREFILL[query.itemsize]
        heads = query.shape[1]
        prefill_kernel[(heads, len(arrays.chunk_first), QUERIES // launch.rows)](
            query, query.stride(0), query.stride(1), out, scores.sinks_or(out), *blocks,
            arrays.block_tables,
            arrays.block_tables.stride(0), arrays.token_sequence, arrays.positions,
            arrays.sequence_start, arrays.chunk_first, arrays.chunk_count, scale,
            GROUP=heads // layout.heads_of(layer), D=layout.head_dim,
            D_PADDED=max(16, power_of_2(layout.head_dim)),
            BLOCK_TOKENS=layout.block_tokens, ROWS=launch.rows, TILE_=launch.tile,
            WINDOW=scores.window, SOFTCAP=scores.softcap, HAS_SINKS=scores.sinks is not None,
            num_warps=launch.num_warps, num_stages=launch.num_stages,
        )  # fmt: skip
