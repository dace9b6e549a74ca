"""Owns the model alone: takes the chunks of a step and gives the next tokens."""

import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import RankLostError, UnsupportedModelError, one_line
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.paged_attention import KvLayout, make_paged_attention
from gossamer.kernels.scratch import ScratchMemory
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.stats import MergeStats
from gossamer.serving.device.device import Device
from gossamer.serving.runner.attach import AdaptedModules, attach, attend
from gossamer.serving.runner.batch import BatchBuilder
from gossamer.serving.runner.in_flight import StepInFlight
from gossamer.serving.runner.layers import StepContext
from gossamer.serving.runner.lowering.step import StepBatch
from gossamer.serving.runner.model_shape import decoder_blocks
from gossamer.serving.runner.prompt_scores import OutputHead, pieces, score
from gossamer.serving.runner.sampling.sampler import SamplingState, choose
from gossamer.serving.runner.team import Team
from gossamer.serving.runner.trained_parts.blocks import BlockParts
from gossamer.serving.scheduler.hot_merge import HotMerger
from gossamer.serving.scheduler.step import ScheduledChunk
from gossamer.serving.shard import WHOLE, Shard

MOST_REPLAYS = 256
"""Keys of steps that are kept: a captured step takes some MiB of a GPU. Few meet as many."""


class PagedModel:
    """A transformers model over the block pool: a batch in, logits out."""

    def __init__(
        self, model: Any, pool: Tensor, layout: KvLayout, device: Device,
        rows: RowFormat | None = None, attention: str = "", shard: Shard = WHOLE,
    ) -> None:  # fmt: skip
        """Takes `model`, which is on the device, over: its layers are replaced in place.

        rows: see `attach`; attention: as `choose_attention` says, or empty: the device's backend;
        shard: the part of the whole that `model` is.
        """
        self.backend = device.backend
        self._shard = shard
        heads = model.config.num_attention_heads // shard.size
        self._attention = make_paged_attention(
            pool, layout, attention or self.backend, heads // layout.num_kv_heads
        )
        self._context = StepContext(attention=self._attention)
        self.modules: AdaptedModules = attach(model, pool, self.backend, self._context, rows, shard)
        self._blocks = BlockParts(decoder_blocks(model), pool)
        self._model = model
        self.dtype: torch.dtype = model.dtype
        self._head = OutputHead(model)
        self._device = device
        # What repeats the steps of a key, and where that leaves the logits.
        self._replays: dict[Hashable, tuple[Callable[[], None], Tensor]] = {}
        self._logits = ScratchMemory(device.torch_device)

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> Tensor:
        """Launch a batch; float32 logits [len(batch.sampled), vocabulary], valid until the next."""
        if self.backend == "cpu":
            self._share_threads()
        self._attention.plan(batch.attention)
        logits = self._replay(batch) if batch.key is not None else self._compute(batch).float()
        return logits[: len(batch.sampled)]

    def judge(self, batch: StepBatch, known: frozenset[str]) -> Tensor:
        """Run a batch as `run` does, and see how the model uses our layers.

        Linear layers that do not see each token once are none that adapters can act on. Raises
        `UnsupportedModelError` if attention is told anything that is not `known`.
        """
        seen = self._context.seen = set()
        calls = self._context.calls = []
        try:
            logits = self.run(batch)
        finally:
            self._context.seen = self._context.calls = None
        if seen - known:
            raise UnsupportedModelError(
                f"its layers tell attention {', '.join(sorted(seen - known))}, which is not "
                "computed here"
            )
        self.modules.keep_called(calls, batch.token_ids.shape[1])
        return logits

    @torch.inference_mode()
    def attend_alone(
        self, batch: StepBatch, calls: Iterable[tuple[Any, Tensor, Tensor, Tensor, dict[str, Any]]]
    ) -> Iterator[Tensor]:
        """Yield what attention gives for each of `calls`, the rest of the model left out.

        A call is a layer's module, query [1, heads, T, head_dim] of the batch's T tokens, key and
        value [1, kv_heads, T, head_dim], and options; the output is [T, heads, head_dim].
        """
        if self.backend == "cpu":
            self._share_threads()
        self._attention.plan(batch.attention)
        self._context.batch = batch
        try:
            for module, query, key, value, options in calls:
                yield attend(module, query, key, value, None, **options)[0][0]
        finally:
            self._context.batch = None

    @property
    def whole_model(self) -> Any:
        """Return the transformers model itself, with our layers in it."""
        return self._model

    @torch.inference_mode()
    def scored_logits(self, batch: StepBatch) -> Iterator[Tensor]:
        """Float32 logits [rows, vocabulary] of the scored rows of the batch that was run last,
        piece by piece. All ranks take all pieces."""
        for rows in pieces(batch, self._model.config.vocab_size):
            if batch.parts is not None:
                # Tokens may have output rows of their own.
                self._context.batch = replace(batch, parts=batch.parts.at(rows.tolist()))
            try:
                with self._told_of_ranks():
                    logits = self._head.logits(batch.token_ids, rows).float()
            finally:
                self._context.batch = None
            yield logits
        self._head.forget()

    def _replay(self, batch: StepBatch) -> Tensor:
        """Compute a batch as others of its key were, whose arrays are where its own are."""
        if batch.key not in self._replays:
            if len(self._replays) >= MOST_REPLAYS:
                self._device.forget_graphs()
                self._replays.clear()
            # All steps leave their logits at one place: in memory of their own, those of a hundred
            # keys would take some GiB.
            rows, width = len(batch.logit_rows), self._model.config.vocab_size
            logits = self._logits.take(rows * width)[: rows * width].view(rows, width)

            def body() -> None:
                logits.copy_(self._compute(batch))

            self._replays[batch.key] = (self._device.graph(batch.key, body), logits)
        replay, logits = self._replays[batch.key]
        replay()
        return logits

    def _compute(self, batch: StepBatch) -> Tensor:
        """Logits [len(batch.logit_rows), vocabulary] in the model's number format."""
        self._context.batch = batch
        kept = self._head.keeping() if batch.scored_rows is not None else nullcontext()
        try:
            with self._told_of_ranks(), kept, self._blocks.acting(batch.parts):
                output = self._model(
                    **self._inputs(batch),
                    position_ids=batch.positions,
                    use_cache=False,
                    logits_to_keep=batch.logit_rows,
                )
        finally:
            self._context.batch = None
        logits: Tensor = output.logits[0]
        return logits

    @contextmanager
    def _told_of_ranks(self) -> Iterator[None]:
        """What fails meanwhile fails on one rank alone, which is told."""
        try:
            yield
        except RankLostError:
            raise
        except Exception as error:
            if self._shard.is_whole:
                raise
            raise RankLostError(
                f"rank {self._shard.rank} failed in a step of which the others have computed their "
                f"part ({one_line(str(error), 200)}); restart the server"
            ) from error

    def _inputs(self, batch: StepBatch) -> dict[str, Tensor]:
        """The model's inputs: tokens by number, or all by embedding where some have no number."""
        if batch.virtual is None:
            return {"input_ids": batch.token_ids}
        first, rows = batch.virtual
        embeddings = self._model.get_input_embeddings()(batch.token_ids)
        embeddings[0, first : first + len(rows)] = rows.to(embeddings)
        return {"inputs_embeds": embeddings}

    def _share_threads(self) -> None:
        # Numba keeps the number for each calling thread, so it is set where the kernels are called.
        from gossamer.kernels.cpu import use_threads

        use_threads(torch.get_num_threads())


class ModelRunner:
    """Computes steps: builds their batches, on merged weights where that is less work."""

    def __init__(
        self,
        model: PagedModel,
        builder: BatchBuilder,
        device: Device,
        merger: HotMerger | None = None,
        team: Team | None = None,
        *,
        overlaps: bool | None = None,
    ) -> None:
        """`team` are the other ranks, if the model is computed by several. `overlaps` is whether a
        step is launched before the one before was read; unset: if the device computes beside the
        host."""
        self.team = team
        self.overlaps = device.overlaps if overlaps is None else overlaps
        self.model = model
        self.builder = builder
        self.device = device
        self.merger = merger

    def follow(self) -> None:
        """Take over weights that were merged meanwhile, or have others merged.

        Raises `RankLostError` if a rank is lost.
        """
        self.check()
        if self.merger is not None:
            self.merger.follow()

    def launch(
        self,
        chunks: list[ScheduledChunk],
        state_of: Callable[[Sequence], SamplingState],
        after: StepInFlight | None = None,
    ) -> StepInFlight:
        """Begin to compute `chunks`, and to choose the next tokens with the states of sampling.

        Keys and values are then in the sequences' blocks, for whatever is launched behind it.
        `after` is the step launched before, if it was not read: it has the tokens that are unknown.
        """
        self.device.bind_thread()
        begun = time.monotonic()
        merged = self.merger.choose(chunks) if self.merger is not None else None
        batch = self.builder.build(chunks, merged)
        if after is not None:
            after.fill(batch)
        built = time.monotonic()
        try:
            logits = self.model.run(batch)
            moments = (begun, built, time.monotonic())
            states = [state_of(sequence) for sequence in batch.sampled]
            chosen = choose(logits, states, self.device.fetch)
            scores = score(batch, self.model.scored_logits(batch), self.device.fetch)
        finally:
            # Where it fails, what was launched of it may run all the same, and use blocks.
            self.device.step_launched()
        overlaps = self.device.overlaps
        return StepInFlight(chunks, batch.sampled, chosen, moments, scores, overlaps=overlaps)

    def check(self) -> None:
        """Raise `RankLostError` if a rank is lost. From any thread."""
        if self.team is not None:
            self.team.check()

    def audit(self, adapters: Iterable[tuple[Any, list[int]]]) -> None:
        """Compare the tables and blocks of adapters with those of other ranks; see `Team.audit`."""
        if self.team is not None:
            self.team.audit(adapters)

    def stats(self) -> MergeStats:
        """Tell what was merged. From any thread."""
        return self.merger.stats() if self.merger is not None else MergeStats()

    def close(self) -> None:
        """Stop the merging thread, and let the other ranks end."""
        if self.merger is not None:
            self.merger.close()
        if self.team is not None:
            self.team.close()
