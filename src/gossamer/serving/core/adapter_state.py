"""Tells how far an adapter is on its way into the pool, and by which moves it goes on.

This is the only module that changes an adapter's state: each move is a method, and one that is not
in `MOVES` is a bug.
"""

import enum
from dataclasses import dataclass, field

from gossamer.errors import GossamerError


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
    """The rows are being copied into their blocks in the background, or computed in steps."""
    RESIDENT = "resident"
    """The rows are in the pool."""
    REFUSED = "refused"
    """Cannot be served; `error` tells why. New files under the name make a new entry."""
    REPLACED = "replaced"
    """Was evicted, and other files lie in its place now: this version is lost."""
    UNREADABLE = "unreadable"
    """Could not be read at the time; `error` tells why. The next request makes a new entry."""
    REMOVED = "removed"
    """Was unloaded, and the last request that used it has ended."""


_S = AdapterState
MOVES: dict[AdapterState, frozenset[AdapterState]] = {
    _S.REGISTERED: frozenset({_S.LOADING, _S.UNREADABLE, _S.REMOVED}),
    _S.LOADING: frozenset({_S.HOST, _S.REFUSED, _S.REPLACED, _S.UNREADABLE}),
    _S.HOST: frozenset({_S.PLACING, _S.REGISTERED}),
    _S.PLACING: frozenset({_S.RESIDENT, _S.HOST, _S.REFUSED, _S.UNREADABLE}),
    _S.RESIDENT: frozenset({_S.HOST, _S.REGISTERED}),
    _S.REFUSED: frozenset({_S.REMOVED}),
    _S.REPLACED: frozenset({_S.REMOVED}),
    _S.UNREADABLE: frozenset({_S.REMOVED}),
    _S.REMOVED: frozenset(),
}
"""Where each state may lead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """Holds what reading an adapter's files has found; other files make another entry."""

    digest: str
    """The digest of weights and config, whatever the name."""
    num_blocks: int
    """Blocks that its rows take in the pool."""
    num_bytes: int
    """Bytes that its rows take there."""
    rank: int | None
    """Largest rank of any module."""
    kind: str = "low-rank"
    """low-rank, gain, sparse, intervention or prefix."""
    num_virtual_tokens: int = 0
    """Positions that its prefix takes before the prompt."""
    edited: tuple[int, int] | None = None
    """How many of the first and last positions of a prompt an intervention edits."""
    is_copied: bool = True
    """Whether placing it is but a copy, which may be done in the background; else the base model
    computes it in steps."""
    read_seconds: float = 0.0
    """How long reading and checking took."""


@dataclass(eq=False, slots=True, kw_only=True)
class AdapterLife:
    """Holds the state of an adapter and what belongs to it, and makes the moves between states."""

    _state: AdapterState = field(default=AdapterState.REGISTERED, init=False)
    _error: GossamerError | None = field(default=None, init=False)
    facts: AdapterFacts | None = field(default=None, init=False)
    """None until it was read."""
    rows: object | None = field(default=None, init=False)
    """The rows, if they are in host memory (in state HOST they are). Only loaders look inside."""
    blocks: list[int] = field(default_factory=list, init=False)
    """The blocks in the pool (states PLACING and RESIDENT)."""
    table: object | None = field(default=None, init=False)
    """Finds the rows in the pool (state RESIDENT). Only the runner looks inside."""
    place_seconds: float = field(default=0.0, init=False)
    """How long placing took the last time."""

    @property
    def state(self) -> AdapterState:
        """Return how far it is."""
        return self._state

    @property
    def error(self) -> GossamerError | None:
        """Return why it has ended; None if it has not."""
        return self._error

    def start_reading(self) -> None:
        """Note that the files are being read."""
        self._move(AdapterState.LOADING)

    def learn(self, facts: AdapterFacts) -> None:
        """Take over what reading has found, whatever comes of it."""
        self.facts = facts

    def finish_reading(self, rows: object) -> None:
        """Note that the files have been read: `rows` are in host memory."""
        self.rows = rows
        self._move(AdapterState.HOST)

    def drop_rows(self) -> None:
        """Forget the rows in host memory; in state HOST it has to be read again."""
        self.rows = None
        if self._state is AdapterState.HOST:
            self._move(AdapterState.REGISTERED)

    def start_placing(self, blocks: list[int]) -> None:
        """Note that the rows are being written into `blocks`."""
        self._move(AdapterState.PLACING)
        self.blocks = blocks

    def finish_placing(self, table: object, seconds: float) -> None:
        """Note that the rows are in their blocks, where `table` finds them; that took `seconds`."""
        self.table, self.place_seconds = table, seconds
        self._move(AdapterState.RESIDENT)

    def leave_blocks(self) -> list[int]:
        """Give up its blocks, whether its rows are in them yet or not; returns them.

        In state PLACING or RESIDENT it goes back to what host memory has of it.
        """
        if self._state in (AdapterState.PLACING, AdapterState.RESIDENT):
            self._move(AdapterState.REGISTERED if self.rows is None else AdapterState.HOST)
        blocks, self.blocks, self.table = self.blocks, [], None
        return blocks

    def end(self, state: AdapterState, error: GossamerError) -> None:
        """It is REFUSED, REPLACED, UNREADABLE or REMOVED, for the reason `error`."""
        self._error = error
        self._move(state)

    def _move(self, to: AdapterState) -> None:
        assert to in MOVES[self._state], f"{self._state.value} does not lead to {to.value}"
        self._state = to
