"""An adapter as the scheduler sees it: a name, a state, a number of blocks, a count of users."""

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossamer.errors import GossamerError
from gossamer.serving.memory.value import Heat

Signature = tuple[tuple[int, ...], ...]
"""(inode, size, time of writing, time of change, device) of each file; the last two may be missing
where there is no disk."""


class AdapterState(enum.Enum):
    """registered -> loading -> host -> placing -> resident, and back to host (or registered, when
    the host cache has no room) by eviction; or an end: refused, replaced, unreadable, removed."""

    REGISTERED = "registered"
    """Known on disk; nothing read."""
    LOADING = "loading"
    """Being read and checked in the background."""
    HOST = "host"
    """Read and checked; its rows are in host memory."""
    PLACING = "placing"
    """Its rows are being copied into its blocks in the background, or computed in steps."""
    RESIDENT = "resident"
    """Its rows are in the pool."""
    REFUSED = "refused"
    """Cannot be served; `error` tells why. New files under the name make a new entry."""
    REPLACED = "replaced"
    """Was evicted, and other files lie in its place now: this version is lost."""
    UNREADABLE = "unreadable"
    """Could not be read at the time; `error` tells why. Whoever asks next makes a new entry."""
    REMOVED = "removed"
    """Was unloaded, and the last request that used it has ended."""


@dataclass(eq=False, slots=True, kw_only=True)
class AdapterEntry:
    """One version of an adapter: the files that lay under `name` when it was looked up."""

    name: str
    path: Path
    signature: Signature
    """Of its files, the weights last; tells versions apart without reading them."""
    state: AdapterState = AdapterState.REGISTERED
    users: int = 0
    """Running sequences; > 0 forbids eviction."""
    requests: int = 0
    """Accepted requests that have not ended; an unload waits for them."""
    pinned: bool = False
    """Never evicted, neither from the pool nor from host memory."""
    draining: bool = False
    """Unloaded: no new request gets it, accepted ones end with it."""
    hits: int = 0
    """Requests that named it."""
    used_at: float | None = None
    """Unix time of the last of them."""
    heat: Heat = field(default_factory=Heat)
    """Of its uses, for eviction."""
    last_used: int = 0
    """A count that grows with every use."""
    num_blocks: int | None = None
    """Blocks its rows take; None until read."""
    blocks: list[int] = field(default_factory=list)
    error: GossamerError | None = None
    rows: Any = None
    """Its rows, if they are in host memory (in state HOST they are)."""
    table: Any = None
    """Finds the rows in the pool (state RESIDENT)."""
    is_copied: bool = True
    """Whether placing it is but a copy, which may be done in the background; else the base model
    computes it in steps."""
    edited: tuple[int, int] | None = None
    """Of an intervention: how many of the first and last positions of a prompt it edits."""
    read_seconds: float = 0.0
    """That reading and checking took ..."""
    place_seconds: float = 0.0
    """... and placing, last time."""
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

    def is_version_of(self, other: "AdapterEntry") -> bool:
        """Whether both are the same files in the same place."""
        return self.signature == other.signature and self.path == other.path

    @property
    def file_bytes(self) -> int:
        """Of its weights on disk."""
        return self.signature[-1][1]

    @property
    def blocks_to_load(self) -> int:
        """Blocks that it takes when it becomes resident."""
        is_in_blocks = self.state in (AdapterState.RESIDENT, AdapterState.PLACING)
        return 0 if is_in_blocks else self.num_blocks or 0

    @property
    def seconds_to_return(self) -> float:
        """To have it resident again, were it evicted now; 1 ms at least (below is noise)."""
        reading = self.read_seconds if self.rows is None else 0.0
        return max(reading + self.place_seconds, 1e-3)
