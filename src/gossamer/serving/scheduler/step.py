"""Defines what a step consists of, and what the scheduler must keep to."""

from dataclasses import dataclass, field

from gossamer.serving.core.adapter import AnyAdapter
from gossamer.serving.core.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """Says what the scheduler must keep to."""

    block_tokens: int
    max_batch_tokens: int
    """Tokens of a step."""
    max_running: int
    """Sequences admitted at a time."""
    expected_new_tokens: int
    """A request is assumed to produce at most this many more tokens when its memory is judged."""
    max_context: int | None = None
    """Positions that the model knows; an adapter's virtual tokens take some. None: no limit."""
    adapter_cluster: int = 0
    """From this many distinct adapters in the batch on, a tenant's requests for one of them go
    before its others; 0: never."""
    prefetch: int = 0
    """The adapters of this many requests at the head of the queue are copied into free blocks
    before their turn."""
    base_bytes: int = 0
    """The bytes of the base model's weights, against which an adapter's work is measured."""


_NONE = range(0)


# Not frozen: one is made for each sequence and step, and a frozen one takes twice as long.
@dataclass(slots=True)
class ScheduledChunk:
    """Gives a sequence its part in a step: `count` tokens from `num_computed` on."""

    sequence: Sequence
    count: int
    is_decode: bool = field(init=False)
    """Whether that is the token generated last."""
    is_due: bool = field(init=False)
    """Whether the next token is chosen after these."""
    scored: range = _NONE
    """Which of these, counted from the first, have the token of the prompt that follows scored."""

    def __post_init__(self) -> None:
        sequence = self.sequence
        left = sequence.num_to_compute
        self.is_decode = left == 1 and sequence.num_generated > 0
        self.is_due = left == self.count and sequence.prefix_of is None
        if sequence.unscored < sequence.num_prompt:
            begin = sequence.num_computed
            end = min(begin + self.count, sequence.num_prompt - 1)
            self.scored = range(max(begin, sequence.unscored - 1) - begin, end - begin)

    @property
    def tokens(self) -> list[int]:
        """Return the tokens to compute; of a prefix they mean nothing."""
        begin = self.sequence.num_computed
        return self.sequence.token_ids[begin : begin + self.count]


def adapters_of(step: list[ScheduledChunk]) -> list[AnyAdapter]:
    """List the distinct adapters of a step, in order of appearance."""
    found = {part.sequence.adapter: None for part in step if part.sequence.adapter is not None}
    return list(found)
