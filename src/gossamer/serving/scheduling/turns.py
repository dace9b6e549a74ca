"""Which running sequences compute in a step, and how much."""

from collections.abc import Iterable

from gossamer.serving.sequence import Sequence


def in_turn(running: Iterable[Sequence], budget: int) -> list[Sequence]:
    """`running` (in order of admission) in the order in which they take from the budget of tokens.

    Sequences that decode come first and take a token each; prompts share what is left, the oldest
    first. Where there are as many decodes as tokens, nothing would be left and the last ones would
    never come: all then take turns, whoever was computed longest ago first, so that a sequence is
    computed at least once in ceil(decodes / budget) + prompts steps.
    """
    ordered = sorted(running, key=lambda s: s.num_to_compute > 1)
    num_decodes = sum(s.num_to_compute <= 1 for s in ordered)
    if num_decodes < budget:
        return ordered
    return sorted(ordered, key=lambda s: s.last_step)
