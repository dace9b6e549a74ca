"""Paged attention in plain torch: states the operation; the oracle of the tests."""

import torch
from torch import Tensor

from gossamer.kernels.paged_attention.batch import AttentionBatch, KvLayout


class ReferencePagedAttention:
    """See `PagedAttention`; any device and dtype."""

    def __init__(self, pool: Tensor, layout: KvLayout) -> None:
        self._pool = pool
        self._layout = layout

    def plan(self, batch: AttentionBatch) -> None:
        """See `PagedAttention.plan`: nothing."""

    def __call__(
        self, batch: AttentionBatch, layer: int, query: Tensor, key: Tensor, value: Tensor,
        scale: float, window: int = 0, softcap: float = 0.0, sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """See `PagedAttention.__call__`."""
        write_kv(self._layout, self._pool, batch, layer, key, value)
        layout, pool = self._layout, self._pool
        return attend(layout, pool, batch, layer, query, scale, window, softcap, sinks)


def write_kv(
    layout: KvLayout, pool: Tensor, batch: AttentionBatch, layer: int, key: Tensor, value: Tensor
) -> None:
    """Store keys and values [T, num_kv_heads, head_dim] of `layer` at the tokens' places."""
    view = layout.layer_view(pool, layer)
    for t, (block, index) in enumerate(zip(batch.token_block, batch.token_index, strict=True)):
        view[block, 0, :, index] = key[t]
        view[block, 1, :, index] = value[t]


def attend(
    layout: KvLayout, pool: Tensor, batch: AttentionBatch, layer: int, query: Tensor,
    scale: float, window: int, softcap: float = 0.0, sinks: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """softmax(scale q K^T) V of each token over its own sequence up to itself.

    query, result: [T, num_heads, head_dim]. window: positions a token sees with itself; 0: all.
    softcap, sinks: see `PagedAttention.__call__`. Numbers shorter than float32 are computed in it,
    as kernels do: rounded scores would move the shares of large ones by some percent.
    """
    out = torch.empty_like(query)
    exact = torch.promote_types(query.dtype, torch.float32)
    for t in range(query.shape[0]):
        end = int(batch.positions[t]) + 1
        sequence = int(batch.token_sequence[t])
        start = max(int(batch.sequence_start[sequence]), end - window if window else 0)
        key, value = gather_sequence(layout, pool, batch, layer, sequence, end)
        group = query.shape[1] // layout.heads_of(layer)
        key = key[:, start:].repeat_interleave(group, dim=0).to(exact)
        value = value[:, start:].repeat_interleave(group, dim=0).to(exact)
        scores = scale * (key @ query[t, :, :, None].to(exact)).squeeze(-1)
        out[t] = (shares(scores, softcap, sinks)[:, None, :] @ value).squeeze(1)
    return out


def shares(scores: Tensor, softcap: float, sinks: Tensor | None) -> Tensor:
    """Shares of the softmax of scores [num_heads, .., keys], which may be minus infinity."""
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if sinks is None:
        return scores.softmax(-1)
    own = sinks.to(scores.dtype).view(-1, *[1] * (scores.dim() - 1))
    joined = torch.cat([scores, own.expand(*scores.shape[:-1], 1)], dim=-1)
    return joined.softmax(-1)[..., :-1]


def gather_sequence(
    layout: KvLayout, pool: Tensor, batch: AttentionBatch, layer: int, sequence: int, length: int
) -> tuple[Tensor, Tensor]:
    """Keys and values [num_kv_heads, length, head_dim] of a sequence, copied from its blocks."""
    num_blocks = -(-length // layout.block_tokens)
    blocks = torch.from_numpy(batch.block_tables[sequence, :num_blocks]).long()
    both = layout.layer_view(pool, layer)[blocks]  # [blocks, 2, heads, block_tokens, head_dim]
    both = both.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :length]
    return both[0], both[1]
