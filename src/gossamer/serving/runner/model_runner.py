"""Owns the model alone: takes a batch and gives logits."""

from typing import Any

import torch
from torch import Tensor

from gossamer.kernels.paged_attention import KvLayout, PagedAttention
from gossamer.serving.runner.attach import AdaptedModules, attach
from gossamer.serving.runner.batch import StepBatch
from gossamer.serving.runner.layers import StepContext


class Runner:
    """Runs steps of a transformers model over the block pool."""

    def __init__(self, model: Any, pool: Tensor, layout: KvLayout, backend: str) -> None:
        """Takes `model` over: its linear layers are replaced in place."""
        self._context = StepContext(attention=PagedAttention(pool, layout, backend))
        self.modules: AdaptedModules = attach(model, pool, backend, self._context)
        self._model = model
        self.backend = backend

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> Tensor:
        """Compute a step; float32 logits [len(batch.sampled), vocabulary]."""
        if self.backend == "cpu":
            self._share_threads()
        self._context.batch = batch
        try:
            output = self._model(
                **self._inputs(batch),
                position_ids=batch.positions,
                use_cache=False,
                logits_to_keep=batch.logit_rows,
            )
        finally:
            self._context.batch = None
        logits: Tensor = output.logits[0]
        return logits.float()

    def _inputs(self, batch: StepBatch) -> dict[str, Tensor]:
        """The model's inputs: tokens by number, or all by embedding where some have no number."""
        if batch.virtual is None:
            return {"input_ids": batch.token_ids}
        first, rows = batch.virtual
        embeddings = self._model.get_input_embeddings()(batch.token_ids)
        embeddings[0, first : first + len(rows)] = rows.to(embeddings.dtype)
        return {"inputs_embeds": embeddings}

    def _share_threads(self) -> None:
        # Numba keeps the number for each calling thread, so it is set where the kernels are called.
        from gossamer.kernels.cpu import use_threads

        use_threads(torch.get_num_threads())
