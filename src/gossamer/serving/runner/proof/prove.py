"""Compares what is computed over the pool with what the untouched model has said.

The first text is computed whole, and again in chunks with its last token decoded beside a chunk of
the second; so prompts, chunks, single tokens and mixed steps are all compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.errors import UnsupportedModelError
from gossamer.serving.core.messages import Request
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.runner.batch import BatchBuilder
from gossamer.serving.runner.model_runner import PagedModel
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

    Raises `UnsupportedModelError` saying what differs. Layers that do not see each token once are
    taken out of those that adapters can act on.
    """
    tolerance = _tolerance(paged.dtype)
    with short_windows(paged.whole_model):
        steps = _steps(paged, builder, num_blocks, block_tokens, expected)
        for what, number, place, logits in steps:
            want = expected.logits[number][place]
            largest = float((logits - want).abs().max())
            allowed = tolerance * float(want.abs().max())
            if not largest <= allowed:
                raise UnsupportedModelError(
                    f"computed over the pool, {what} differs from what transformers computes by "
                    f"{largest:.2g} in a logit ({allowed:.2g} would be rounding)"
                )


def _tolerance(dtype: torch.dtype) -> float:
    """Return the share of the largest logit that is taken for rounding."""
    return 1e-4 if dtype == torch.float32 else 16 * torch.finfo(dtype).eps


def _steps(
    paged: PagedModel, builder: BatchBuilder, num_blocks: int, block_tokens: int,
    expected: Expectation,
) -> Iterator[tuple[str, int, int, Tensor]]:  # fmt: skip
    """Yield (what it is, text, token, logits after it) of each comparison."""
    long, short = (len(text) for text in expected.texts)
    # A small pool has few blocks; then less is compared.
    half = num_blocks // 2 * block_tokens
    long, short = min(long, num_blocks * block_tokens - half), min(short, half)
    first = -(-long // block_tokens)
    own = [list(range(first)), list(range(first, first - (-short // block_tokens)))]

    def text(number: int) -> _Text:
        ids = expected.texts[number]
        sequence = Sequence(
            request=Request(request_id="proof", prompt_token_ids=tuple(ids[:1])),
            adapter=None,
            max_new_tokens=1,
            blocks=own[number],
        )
        return _Text(number, ids, sequence)

    def run(what: str, *pieces: tuple[_Text, int]) -> Iterator[tuple[str, int, int, Tensor]]:
        chunks = [each.chunk(upto) for each, upto in pieces]
        logits = paged.judge(builder.build(chunks), KNOWN).cpu()
        for row, (each, upto) in enumerate(pieces):
            each.sequence.num_computed = upto
            yield what, each.number, upto - 1, logits[row]

    whole, again, other = text(0), text(0), text(1)
    yield from run("a prompt computed whole", (whole, long))
    if long > 2:
        cut = max(1, long // 2 - 2)
        yield from run("a prompt's first chunk", (again, cut))
        yield from run(
            "a chunk beside another prompt", (again, long - 1), (other, max(1, short // 2))
        )
        if short > 1:
            yield from run("a token beside a chunk", (again, long), (other, short))
        else:
            yield from run("a single token", (again, long))
