"""Lets prompts that begin alike share the log-probabilities of their tokens, as they share blocks.

Those of a shared block depend, as its keys and values do, on nothing but the tokens up to its end
and what computed them. Scoring the answers to one question so computes the question once.
"""

from collections.abc import Iterator
from collections.abc import Sequence as List

from gossamer.serving.core.prompt_scores import PromptScores
from gossamer.serving.core.sequence import Sequence


def known_parts(
    sequence: Sequence, shared: List[PromptScores | None], block_tokens: int
) -> Iterator[PromptScores]:
    """Find what `sequence` is still to be told in the scores of the blocks that it begins with.

    Gives scores side by side, from the first token on that it lacks, up to the first that no block
    has.
    """
    own = sequence.scores
    if own is None or own.end != sequence.unscored:
        return  # The next ones are in flight.
    known = own.end
    for number, scores in enumerate(shared):
        end = min((number + 1) * block_tokens, sequence.num_prompt)
        if end <= known:
            continue
        if scores is None or scores.num_top < own.num_top or scores.first > known:
            return
        yield scores.part(known, end)
        known = end


def num_known(sequence: Sequence, shared: List[PromptScores | None], block_tokens: int) -> int:
    """Count the tokens of the prompt that need no scoring, given those blocks."""
    ends = [part.end for part in known_parts(sequence, shared, block_tokens)]
    return max(ends, default=sequence.unscored)


def take(sequence: Sequence, shared: List[PromptScores | None], block_tokens: int) -> None:
    """Give `sequence` what it lacks of the scores of the blocks that it begins with."""
    # A list: what is lacking changes with each part.
    for part in list(known_parts(sequence, shared, block_tokens)):
        assert sequence.scores is not None
        sequence.scores.extend(part)
        sequence.unscored = part.end


def new_parts(sequence: Sequence, block_tokens: int) -> Iterator[tuple[int, PromptScores]]:
    """Give the numbers of the blocks of `sequence` that were scored since the last call, and the
    scores of each."""
    scores = sequence.scores
    assert scores is not None
    while sequence.num_scores_offered < sequence.num_offered:
        number = sequence.num_scores_offered
        begin, end = max(1, number * block_tokens), (number + 1) * block_tokens
        if end > scores.end:
            return
        sequence.num_scores_offered += 1
        if scores.first <= begin:
            yield number, scores.part(begin, end)
