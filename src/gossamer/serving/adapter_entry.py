"""An adapter as the scheduler sees it: a name, a state, a number of blocks, a count of users."""

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossamer.errors import GossamerError


class AdapterState(enum.Enum):
    """registered -> loading -> host -> resident (-> registered when evicted), or an end: refused,
    replaced."""

    REGISTERED = "registered"
    """Known on disk; nothing read."""
    LOADING = "loading"
    """Being read and checked in the background."""
    HOST = "host"
    """Read and checked, waiting for blocks."""
    RESIDENT = "resident"
    """Its rows are in the pool."""
    REFUSED = "refused"
    """Cannot be served; `error` tells why. New files under the name make a new entry."""
    REPLACED = "replaced"
    """Was evicted, and other files lie in its place now: this version is lost."""


@dataclass(eq=False, slots=True, kw_only=True)
class AdapterEntry:
    """One version of an adapter: the files that lay under `name` when it was looked up."""

    name: str
    path: Path
    signature: tuple[tuple[int, int, int], ...]
    """(inode, size, time of change) of each file, the weights last; tells versions apart without
    reading them."""
    state: AdapterState = AdapterState.REGISTERED
    users: int = 0
    """Running sequences; > 0 forbids eviction."""
    last_used: int = 0
    """A count that grows with every use."""
    num_blocks: int | None = None
    """Blocks its rows take; None until read."""
    blocks: list[int] = field(default_factory=list)
    error: GossamerError | None = None
    rows: Any = None
    """Its rows in host memory (state HOST) ..."""
    table: Any = None
    """... or the table that finds them in the pool (state RESIDENT)."""
    kind: str | None = None
    """low-rank, gain, sparse, intervention or prefix; None until read."""
    num_virtual_tokens: int = 0
    """Positions that its prefix takes before the prompt."""
    rank: int | None = None
    digest: str | None = None
    num_bytes: int | None = None

    @property
    def parts(self) -> "tuple[AdapterEntry, ...]":
        """The adapters that a request for this one uses."""
        return (self,)

    @property
    def uses(self) -> "tuple[tuple[AdapterEntry, float], ...]":
        """The same, each with its weight."""
        return ((self, 1.0),)

    @property
    def blocks_to_load(self) -> int:
        """Blocks that it takes when it becomes resident."""
        return 0 if self.state is AdapterState.RESIDENT else self.num_blocks or 0
