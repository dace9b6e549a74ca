"""Compares what is computed over the pool with what the untouched model has said.

First the attention of each layer is compared, then the whole model by its logits. Each time the
first text is computed whole, and again in chunks with its last token decoded beside a chunk of the
second; so prompts, chunks, single tokens and mixed steps are all compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gossamer.errors import UnsupportedModelError
from gossamer.serving.core.messages import Request
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.runner.batch import BatchBuilder
from gossamer.serving.runner.lowering.step import StepBatch
from gossamer.serving.runner.model_runner import PagedModel
from gossamer.serving.runner.proof.attention import AttentionCall
from gossamer.serving.runner.proof.expect import Expectation, short_windows
from gossamer.serving.scheduler.step import ScheduledChunk

KNOWN = frozenset(
    {
        "scaling", "sliding_window", "softcap", "s_aux", "dropout", "position_ids", "is_causal",
        "use_cache", "output_router_logits", "output_attentions", "output_hidden_states",
    }
)  # fmt: skip
"""What layers may tell attention beside queries, keys and values: what is computed with, and what
is passed on and says nothing about attention."""


@dataclass(slots=True)
class _Text:
    """One of the texts on its way through the pool."""

    number: int
    token_ids: list[int]
    sequence: Sequence

    def chunk(self, upto: int) -> ScheduledChunk:
        """The tokens up to that of number `upto`, which are computed next, as if there were no
        more of them."""
        self.sequence.token_ids = self.token_ids[:upto]
        return ScheduledChunk(self.sequence, upto - self.sequence.num_computed)


def prove(
    paged: PagedModel, builder: BatchBuilder, num_blocks: int, block_tokens: int,
    expected: Expectation,
) -> None:  # fmt: skip
    """Compute the texts in the first blocks of the pool, in which nothing lies yet.

    Attention is compared alone first, since the logits of a model in bfloat16 differ by so much
    rounding that a cap or a sink could be missing. Raises `UnsupportedModelError` saying what
    differs. Layers that do not see each token once are taken out of those that adapters can act on.
    """
    trial = _Trial(paged, builder, num_blocks, block_tokens, expected)
    with short_windows(paged.whole_model):
        trial.attention()
        trial.logits()


class _Trial:
    def __init__(
        self, paged: PagedModel, builder: BatchBuilder, num_blocks: int, block_tokens: int,
        expected: Expectation,
    ) -> None:  # fmt: skip
        self._paged = paged
        self._builder = builder
        self._expected = expected
        # A small pool has few blocks; then less is compared.
        half = num_blocks // 2 * block_tokens
        long, short = (len(text) for text in expected.texts)
        self._lengths = min(long, num_blocks * block_tokens - half), min(short, half)
        self._block_tokens = block_tokens
        is_exact = paged.dtype == torch.float32
        eps = torch.finfo(paged.dtype).eps
        # Shares of the largest number that are taken for rounding.
        self._of_logits = 1e-4 if is_exact else 16 * eps
        self._of_attention = 1e-4 if is_exact else 4 * eps

    def attention(self) -> None:
        """Compare the attention of each layer, for the same queries, keys and values."""
        for what, pieces, batch in self._steps():
            place = [(each.number, each.sequence.num_computed, upto) for each, upto in pieces]
            of_texts = [self._expected.attention[number] for number, _, _ in place]
            layers = list(zip(*of_texts, strict=True))
            given = [_joined(calls, place, batch.token_ids.shape[1]) for calls in layers]
            found = self._paged.attend_alone(batch, given)
            for calls, output in zip(layers, found, strict=True):
                want = torch.cat(
                    [
                        call.output[low:high]
                        for call, (_, low, high) in zip(calls, place, strict=True)
                    ]
                )
                _compare(
                    f"the attention of layer {calls[0].module.layer_idx} for {what}",
                    output[: len(want)].float(),
                    want,
                    self._of_attention,
                    "an output",
                )

    def logits(self) -> None:
        """Compare what follows the last token of each chunk."""
        for what, pieces, batch in self._steps():
            logits = self._paged.judge(batch, KNOWN).cpu()
            for (each, upto), found in zip(pieces, logits, strict=True):
                want = self._expected.logits[each.number][upto - 1]
                _compare(what, found, want, self._of_logits, "a logit")

    def _steps(self) -> Iterator[tuple[str, list[tuple[_Text, int]], StepBatch]]:
        """Yield each step: its name, the texts with how far they are computed in it, its batch."""
        long, short = self._lengths
        whole, again, other = self._text(0), self._text(0), self._text(1)
        steps = [("a prompt computed whole", [(whole, long)])]
        if long > 2:
            steps.append(("a prompt's first chunk", [(again, max(1, long // 2 - 2))]))
            beside = (other, max(1, short // 2))
            steps.append(("a chunk beside another prompt", [(again, long - 1), beside]))
            if short > 1:
                steps.append(("a token beside a chunk", [(again, long), (other, short)]))
            else:
                steps.append(("a single token", [(again, long)]))
        for what, pieces in steps:
            chunks = [each.chunk(upto) for each, upto in pieces]
            yield what, pieces, self._builder.build(chunks)
            for each, upto in pieces:
                each.sequence.num_computed = upto

    def _text(self, number: int) -> _Text:
        ids = self._expected.texts[number]
        first, second = (-(-length // self._block_tokens) for length in self._lengths)
        sequence = Sequence(
            request=Request(request_id="proof", prompt_token_ids=tuple(ids[:1])),
            adapter=None,
            max_new_tokens=1,
            blocks=list(range(first)) if number == 0 else list(range(first, first + second)),
        )
        return _Text(number, ids, sequence)


def _joined(
    calls: tuple[AttentionCall, ...], place: list[tuple[int, int, int]], length: int
) -> tuple[Any, Tensor, Tensor, Tensor, dict[str, Any]]:
    """One call for the chunks side by side, filled up with zeros to `length` tokens."""
    pieces = [call.piece(low, high) for call, (_, low, high) in zip(calls, place, strict=True)]
    query, key, value = (torch.cat(each, dim=2) for each in zip(*pieces, strict=True))
    query, key, value = (
        functional.pad(each, (0, 0, 0, length - each.shape[2])) for each in (query, key, value)
    )
    return calls[0].module, query, key, value, calls[0].options


def _compare(what: str, found: Tensor, want: Tensor, share: float, of: str) -> None:
    largest = float((found - want).abs().max())
    allowed = share * float(want.abs().max())
    if not largest <= allowed:
        raise UnsupportedModelError(
            f"computed over the pool, {what} differs from what transformers computes by "
            f"{largest:.2g} in {of} ({allowed:.2g} would be rounding)"
        )
