"""Paged attention: causal attention over keys and values that lie in blocks of the pool."""

from typing import Any, Protocol

from torch import Tensor

from gossamer.kernels.paged_attention.batch import AttentionBatch, KvLayout, SequencePages
from gossamer.kernels.paged_attention.reference import ReferencePagedAttention

__all__ = [
    "AttentionBatch",
    "KvLayout",
    "PagedAttention",
    "SequencePages",
    "make_paged_attention",
]


class PagedAttention(Protocol):
    """The operation for all layers of a model over one pool."""

    def plan(self, batch: Any) -> None:
        """Prepare, on the host, for a step whose layers are computed, or replayed, next."""

    def __call__(
        self, batch: Any, layer: int, query: Tensor, key: Tensor, value: Tensor,
        scale: float, window: int = 0, softcap: float = 0.0, sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Store the tokens' keys and values, then attend. `batch`: an `AttentionBatch`, or for
        GPUs `AttentionArrays`.

        query [T, num_heads, head_dim], key and value [T, num_kv_heads, head_dim]; returns
        [T, num_heads, head_dim]. window: positions a token sees, itself included; 0: all. softcap:
        c of scores that become c tanh(score / c) (Gemma 2); 0: none. sinks: [num_heads], a score of
        each head that takes a share of the softmax and adds nothing (GPT-OSS).
        """


def make_paged_attention(
    pool: Tensor, layout: KvLayout, backend: str, group: int = 1
) -> PagedAttention:
    """Make the operation of `backend` over `pool`, uint8 [num_blocks * block_bytes].

    backend: or "flashinfer", see `kernels/attention_choice.py`; group: query heads that share a
    key/value head.
    """
    if backend == "reference":
        return ReferencePagedAttention(pool, layout)
    if backend == "triton":
        from gossamer.kernels.paged_attention.triton_launches import TritonPagedAttention

        return TritonPagedAttention(pool, layout)
    if backend == "flashinfer":
        from gossamer.kernels.paged_attention.flashinfer import FlashInferPagedAttention

        return FlashInferPagedAttention(pool, layout, group)
    # Imported late: Numba is slow to load and a process may never need it.
    from gossamer.kernels.paged_attention.cpu import CpuPagedAttention

    return CpuPagedAttention(pool, layout)
