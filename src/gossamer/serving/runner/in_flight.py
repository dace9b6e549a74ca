"""A step that was launched: the host asks for its tokens when it has nothing better to do."""

import time

import torch

from gossamer.serving.core.prompt_scores import PromptScores
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.runner.lowering.step import StepBatch
from gossamer.serving.runner.prompt_scores import ScoresInFlight
from gossamer.serving.runner.sampling.draw import put_on
from gossamer.serving.runner.sampling.sampler import ChosenTokens, SampledToken
from gossamer.serving.scheduler.step import ScheduledChunk

Choices = list[tuple[Sequence, SampledToken | None]]
"""The sequences whose next token is due after a step, and what was chosen for each."""

Moments = tuple[float, float, float, float]
"""When a step was begun, its batch built, its logits computed, its tokens read."""


class StepInFlight:
    """Holds a step that the device may still compute."""

    def __init__(
        self,
        chunks: list[ScheduledChunk],
        sequences: list[Sequence],
        chosen: ChosenTokens,
        moments: tuple[float, float, float],
        scores: ScoresInFlight | None = None,
        *,
        overlaps: bool,
    ) -> None:
        """`sequences` are those of which `chosen` has tokens, in its order; `moments` when the step
        was begun, built, and launched; `scores` those of prompts, if any; `overlaps`: the device
        may still compute it."""
        self.chunks = chunks
        self._sequences = sequences
        self._chosen = chosen
        self._moments = moments
        self._scores = scores
        self._overlaps = overlaps

    @property
    def must_be_read(self) -> bool:
        """Return whether its tokens must be read before the next step is built."""
        return any(state.needs_counts for state in self._chosen.states)

    def result(self) -> tuple[Choices, Moments]:
        """Wait for the step; called once."""
        tokens = self._chosen.read()
        begun, built, launched = self._moments
        end = time.monotonic()
        computed = end if self._overlaps else launched
        return list(zip(self._sequences, tokens, strict=True)), (begun, built, computed, end)

    def prompt_scores(self) -> list[tuple[Sequence, PromptScores]]:
        """Wait for what the step has found of prompts that are scored; called once."""
        return self._scores.read() if self._scores is not None else []

    @torch.inference_mode()
    def fill(self, batch: StepBatch) -> None:
        """Write its tokens into the batch of the next step, where they are not known yet."""
        unknown = [(i, s) for i, s in enumerate(batch.sampled) if s.has_unknown]
        if not unknown:
            return
        rows = {sequence: row for row, sequence in enumerate(self._sequences)}
        # What is unknown is a sequence's last token, of which its logits are.
        pairs = [(i, rows[sequence]) for i, sequence in unknown]
        places, sources = put_on(self._chosen.tokens.device, list(zip(*pairs, strict=True)))
        tokens = self._chosen.tokens[sources]
        batch.token_ids[0].index_copy_(0, batch.logit_rows[places], tokens)
