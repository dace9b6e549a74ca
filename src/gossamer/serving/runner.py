"""The only owner of the model: a batch in, logits out."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossamer.adapters.low_rank import load_low_rank
from gossamer.kernels.grouped_lora import AdapterTable
from gossamer.kernels.paged_attention import KvLayout, PagedAttention
from gossamer.serving.adapter_entry import AdapterEntry
from gossamer.serving.adapter_rows import HostRows, pack, write_rows
from gossamer.serving.adapter_store import Loaded
from gossamer.serving.attach import AdaptedModules, attach
from gossamer.serving.batch import StepBatch
from gossamer.serving.layers import StepContext


class Runner:
    """Runs steps of a transformers model over the block pool."""

    def __init__(self, model: Any, pool: Tensor, layout: KvLayout, backend: str) -> None:
        """Takes `model` over: its linear layers are replaced in place."""
        self._context = StepContext(attention=PagedAttention(pool, layout, backend))
        self.modules: AdaptedModules = attach(model, pool, backend, self._context)
        self._model = model
        self._backend = backend

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> Tensor:
        """Compute a step; float32 logits [len(batch.sampled), vocabulary]."""
        if self._backend == "cpu":
            self._share_threads()
        self._context.batch = batch
        try:
            output = self._model(
                input_ids=batch.token_ids,
                position_ids=batch.positions,
                use_cache=False,
                logits_to_keep=batch.logit_rows,
            )
        finally:
            self._context.batch = None
        logits: Tensor = output.logits[0]
        return logits.float()

    def _share_threads(self) -> None:
        # Numba keeps the number for each calling thread, so it is set where the kernels are called.
        from gossamer.kernels.cpu import use_threads

        use_threads(torch.get_num_threads())


class RowLoader:
    """Reads low-rank adapters for a model and writes their rows into its pool."""

    def __init__(
        self,
        modules: AdaptedModules,
        pool: Tensor,
        block_bytes: int,
        base_fingerprint: str,
        *,
        int8: bool = False,
    ) -> None:
        """int8: round the rows of adapters to whole numbers, each row with a scale."""
        self._modules = modules
        self._pool = pool
        self._block_bytes = block_bytes
        self._base_fingerprint = base_fingerprint
        self._int8 = int8

    def load(self, entry: AdapterEntry) -> Loaded:
        """Read and check the adapter's files."""
        path: Path = entry.path
        adapter = load_low_rank(
            path, base_shapes=self._modules.shapes, base_fingerprint=self._base_fingerprint
        )
        rows = pack(adapter, self._modules.ids, self._block_bytes, int8=self._int8)
        return Loaded(
            rows=rows,
            num_blocks=rows.num_blocks,
            num_bytes=rows.num_bytes,
            rank=adapter.max_rank,
            digest=adapter.digest,
        )

    def place(self, rows: HostRows, blocks: list[int]) -> AdapterTable:
        """Copy rows into blocks."""
        return write_rows(rows, self._pool, blocks)
