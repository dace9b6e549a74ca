"""What adapters of all kinds have in common."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Adapter:
    """A checked adapter in memory. Each kind has a subclass with its tensors."""

    kind: ClassVar[str]
    """What it does at inference: low-rank, gain, sparse, intervention, prefix, vector, tokens,
    bottleneck, side-network, two-stream or mixed."""
    name: str
    digest: str

    @property
    def max_rank(self) -> int | None:
        """Largest rank of any module; None for kinds without ranks."""
        return None

    @property
    def modules(self) -> Collection[str]:
        """Paths of the linear layers that it changes."""
        return ()

    @property
    def num_virtual_tokens(self) -> int:
        """Positions that it takes in front of the prompt."""
        return 0

    @property
    def edited_positions(self) -> tuple[int, int] | None:
        """How many of the first and of the last positions of a prompt it edits, if it does."""
        return None
