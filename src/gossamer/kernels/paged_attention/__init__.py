"""Paged attention: causal attention over keys and values that lie in blocks of the pool."""

import torch
from torch import Tensor

from gossamer.kernels.paged_attention import reference
from gossamer.kernels.paged_attention.batch import AttentionBatch, KvLayout
from gossamer.kernels.paged_attention.matmul import attend_chunk

__all__ = ["AttentionBatch", "KvLayout", "PagedAttention"]


class PagedAttention:
    """The operation for all layers of a model over one pool."""

    def __init__(self, pool: Tensor, layout: KvLayout, backend: str) -> None:
        """pool: bytes of the block pool, uint8 [num_blocks * block_bytes]."""
        self._pool = pool
        self._layout = layout
        self._backend = backend
        if backend == "cpu":
            self._blocks = pool.view(layout.dtype).view(-1, layout.block_bytes // 4).numpy()

    def __call__(
        self, batch: AttentionBatch, layer: int, query: Tensor, key: Tensor, value: Tensor,
        scale: float, window: int = 0,
    ) -> Tensor:  # fmt: skip
        """Store the tokens' keys and values, then attend.

        query [T, num_heads, head_dim], key and value [T, num_kv_heads, head_dim]; returns
        [T, num_heads, head_dim]. window: positions a token sees, itself included; 0: all.
        """
        if self._backend == "reference":
            reference.write_kv(self._layout, self._pool, batch, layer, key, value)
            return reference.attend(self._layout, self._pool, batch, layer, query, scale, window)
        return self._on_cpu(batch, layer, query, key, value, scale, window)

    def _on_cpu(
        self, batch: AttentionBatch, layer: int, query: Tensor, key: Tensor, value: Tensor,
        scale: float, window: int,
    ) -> Tensor:  # fmt: skip
        from gossamer.kernels.paged_attention import cpu

        layout = self._layout
        cpu.write_kv(
            self._blocks, _rows(key), _rows(value), batch.token_block, batch.token_index, layer,
            layout.block_tokens, layout.head_dim,
        )  # fmt: skip
        query = query.contiguous()
        out = torch.empty_like(query)
        if len(batch.short_tokens):
            cpu.attend(
                self._blocks, query.numpy(), out.numpy(), batch.short_tokens, batch.short_bounds,
                batch.token_sequence, batch.positions, batch.sequence_start, batch.block_tables,
                layer, layout.num_kv_heads, layout.block_tokens, cpu.float32(scale), window,
            )  # fmt: skip
        for chunk in batch.long_chunks:
            attend_chunk(layout, self._pool, batch, layer, chunk, query, out, scale, window)
        return out


def _rows(states: Tensor) -> object:
    """[T, heads, head_dim] as a NumPy array [T, heads * head_dim]."""
    # Contiguous always: for another layout Numba would compile the kernel again, mid-service.
    return states.reshape(states.shape[0], -1).contiguous().numpy()
