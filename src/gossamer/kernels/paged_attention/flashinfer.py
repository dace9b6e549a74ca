"""Paged attention by FlashInfer, over the blocks of our pool; our kernel stores keys and values.

A block of the pool is, for one layer, a page in FlashInfer's layout HND, and all pages are the
same distance apart: views are enough, nothing is copied. Steps that are not given as pages take our
kernels. What is said of FlashInfer is read from the source of version 0.7.4. Written without a GPU:
only tests with a stand-in for the package have run this.
"""

from dataclasses import dataclass
from typing import Any

import flashinfer
import torch
from torch import Tensor

from gossamer.errors import UnsupportedModelError
from gossamer.kernels.attention_work import AttentionArrays
from gossamer.kernels.paged_attention.batch import (
    AttentionBatch,
    KvLayout,
    SequencePages,
)
from gossamer.kernels.paged_attention.triton_launches import TritonPagedAttention

WORKSPACE_BYTES = 128 * 1024**2
"""For the results of parts of long sequences, as its documentation recommends. All wrappers share
it: what one step leaves there, no other reads."""
SCHEDULE_BYTES = 256 * 1024
"""For the schedule of a step that decodes, on the device and on the host: some 20 bytes for each
token or program, of which there are fewer than a thousand. A wrapper's own are 8 MiB."""


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """A wrapper of FlashInfer, and the end of the copies that its last plan has launched."""

    calls: Any
    copied: Any
    """A `torch.cuda.Event`; None where the host waits for each launch anyway."""


class FlashInferPagedAttention:
    """See `PagedAttention`; steps are `AttentionArrays`."""

    def __init__(self, pool: Tensor, layout: KvLayout, group: int) -> None:
        """`group`: query heads that share a key/value head."""
        self._ours = TritonPagedAttention(pool, layout)
        self._layout = layout
        self._kv = layout.view(pool)
        self._heads = {
            "num_qo_heads": group * layout.num_kv_heads,
            "num_kv_heads": layout.num_kv_heads,
            "page_size": layout.block_tokens,
        }
        # The scale comes with the call, as a factor to this one.
        self._formats = {
            "sm_scale": 1.0, "q_data_type": layout.dtype, "kv_data_type": layout.dtype,
        }  # fmt: skip
        self._workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=pool.device)
        # One sort of kernels for all: on GPUs of today tensor cores are at least as fast for
        # decodes too, and what the first step has compiled serves every later one.
        prefill = flashinfer.BatchPrefillWithPagedKVCacheWrapper(
            self._workspace, "HND", backend="fa2"
        )
        self._prefill = _Wrapper(prefill, new_event(pool.device))
        self._decodes: dict[tuple[int, int], _Wrapper] = {}

    def plan(self, batch: AttentionArrays) -> None:
        """See `PagedAttention.plan`. It may wait for the last step but one."""
        pages = batch.pages
        if pages is None:
            return
        wrapper = self._wrapper(pages)
        if wrapper.copied is not None:
            # A wrapper writes its schedule always into the same host memory.
            wrapper.copied.synchronize()
        if pages.is_replayed:
            wrapper.calls.plan(
                indptr=pages.first_page, indices=pages.pages, last_page_len=pages.last_page_tokens,
                head_dim=self._layout.head_dim, **self._heads, **self._formats,
            )  # fmt: skip
        else:
            wrapper.calls.plan(
                qo_indptr=pages.first_token, paged_kv_indptr=pages.first_page,
                paged_kv_indices=pages.pages, paged_kv_last_page_len=pages.last_page_tokens,
                head_dim_qk=self._layout.head_dim, causal=True, **self._heads, **self._formats,
            )  # fmt: skip
        if wrapper.copied is not None:
            wrapper.copied.record()

    def __call__(
        self, batch: AttentionArrays | AttentionBatch, layer: int, query: Tensor, key: Tensor,
        value: Tensor, scale: float, window: int = 0, softcap: float = 0.0,
        sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """See `PagedAttention.__call__`; `plan` has been called for the batch."""
        if not isinstance(batch, AttentionArrays) or batch.pages is None:
            return self._ours(batch, layer, query, key, value, scale, window, softcap, sinks)
        if softcap or sinks is not None:
            what = "capped scores" if softcap else "sinks"
            raise UnsupportedModelError(
                f"attention with {what} is not computed by FlashInfer here; serve this model with "
                "attention 'triton' (--attention triton)"
            )
        if window:
            raise ValueError("FlashInfer is not used for layers with a sliding window")
        self._ours.write(batch, layer, key, value)
        keys, values = self._kv[:, layer, 0], self._kv[:, layer, 1]
        out = query.new_empty(query.shape)
        self._wrapper(batch.pages).calls.run(query, (keys, values), q_scale=scale, out=out)
        return out

    def _wrapper(self, pages: SequencePages) -> _Wrapper:
        """The wrapper of a step: for steps that are replayed, one for each size.

        Between plans, all that a captured launch reads stays at its place: the arrays here, and
        the schedule, whose layout follows from the number of sequences alone.
        """
        if not pages.is_replayed:
            return self._prefill
        sizes = len(pages.last_page_tokens), len(pages.pages)
        if sizes not in self._decodes:
            self._decodes[sizes] = self._new_decode(*sizes)
        return self._decodes[sizes]

    def _new_decode(self, sequences: int, num_pages: int) -> _Wrapper:
        device = self._workspace.device

        def ints(length: int) -> Tensor:
            return torch.zeros(length, dtype=torch.int32, device=device)

        calls = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            self._workspace, "HND", use_cuda_graph=True, use_tensor_cores=True, backend="fa2",
            paged_kv_indptr_buffer=ints(sequences + 1), paged_kv_indices_buffer=ints(num_pages),
            paged_kv_last_page_len_buffer=ints(sequences),
        )  # fmt: skip
        schedule = torch.empty(SCHEDULE_BYTES, dtype=torch.uint8, device=device)
        calls.reset_workspace_buffer(self._workspace, schedule)
        return _Wrapper(calls, new_event(device))


def new_event(device: torch.device) -> Any:
    """Return what `_Wrapper.copied` is on `device`."""
    return torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
