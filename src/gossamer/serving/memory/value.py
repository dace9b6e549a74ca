"""What it is worth to keep something in the pool: the chance of its use, the cost of its return."""

from dataclasses import dataclass

HALF_LIFE = 60.0
"""Seconds after which a past use counts half."""


@dataclass(slots=True)
class Heat:
    """How often something was used lately: a count that halves every `HALF_LIFE` seconds."""

    amount: float = 0.0
    at: float = 0.0

    def touch(self, now: float) -> None:
        """One use more."""
        self.amount = self.count(now) + 1.0
        self.at = now

    def count(self, now: float) -> float:
        """Uses lately, the older the less."""
        return self.amount * 2.0 ** ((self.at - now) / HALF_LIFE)

    def chance(self, now: float) -> float:
        """Probability of a use within the next `HALF_LIFE`, if uses come at random as lately.

        A fading count `c` means `c ln 2` uses per half-life; that none comes has probability
        exp(-c ln 2) = 2^-c.
        """
        return 1.0 - 2.0 ** -self.count(now)


def value(chance: float, seconds_to_return: float, num_blocks: int) -> float:
    """Seconds that a block of it is expected to save: what has the least goes first.

    The size counts as in cost-aware caches (Chameleon, arXiv 2411.17741): of two things used as
    often, the one that is quick to bring back for its size goes.
    """
    return chance * seconds_to_return / max(1, num_blocks)
