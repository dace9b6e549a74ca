"""The only owner of the model: a batch in, logits out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gossamer.adapters.prefix import PrefixAdapter
from gossamer.kernels.paged_attention import KvLayout, PagedAttention
from gossamer.serving.attach import AdaptedModules, attach
from gossamer.serving.batch import StepBatch, prefix_batch
from gossamer.serving.layers import StepContext


class Runner:
    """Runs steps of a transformers model over the block pool."""

    def __init__(self, model: Any, pool: Tensor, layout: KvLayout, backend: str) -> None:
        """Takes `model` over: its linear layers are replaced in place."""
        self._context = StepContext(attention=PagedAttention(pool, layout, backend))
        self.modules: AdaptedModules = attach(model, pool, backend, self._context)
        self._model = model
        self._pool = pool
        self._layout = layout
        self.backend = backend

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> Tensor:
        """Compute a step; float32 logits [len(batch.sampled), vocabulary]."""
        if self.backend == "cpu":
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

    @torch.inference_mode()
    def write_prefix(self, adapter: PrefixAdapter, blocks: Sequence[int]) -> None:
        """Fill `blocks` with the keys and values of an adapter's virtual tokens.

        Right-aligned: the last virtual token is the last of the last block. Given keys and values
        are copied; embeddings are read by the base model, once.
        """
        if adapter.keys_values is not None:
            self._copy_prefix(adapter.keys_values, blocks)
            return
        assert adapter.embeddings is not None
        if self.backend == "cpu":
            self._share_threads()
        batch = prefix_batch(adapter.num_tokens, list(blocks), self._layout.block_tokens)
        self._context.batch = batch
        try:
            self._model.get_decoder()(
                inputs_embeds=adapter.embeddings.to(self._model.dtype)[None],
                position_ids=batch.positions,
                use_cache=False,
            )
        finally:
            self._context.batch = None

    def _copy_prefix(self, keys_values: Tensor, blocks: Sequence[int]) -> None:
        view = self._layout.view(self._pool)
        width = self._layout.block_tokens
        first = len(blocks) * width - keys_values.shape[0]
        for token, states in enumerate(keys_values, start=first):
            view[blocks[token // width], :, :, :, token % width] = states.to(view.dtype)

    def _share_threads(self) -> None:
        # Numba keeps the number for each calling thread, so it is set where the kernels are called.
        from gossamer.kernels.cpu import use_threads

        use_threads(torch.get_num_threads())
