"""A step as the host describes it, and as a backend computes it."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gossamer.kernels.dense_linear import DenseLinear
from gossamer.kernels.hidden_edit import EditBatch
from gossamer.serving.packing.resident import Resident
from gossamer.serving.runner.lowering.part_batch import PartBatch

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]

Met = list[tuple[Resident, float]]
"""The adapters that tokens meet, each with its weight."""


class EntryView(Protocol):
    """An adapter, as a step needs it; see `AdapterEntry`."""

    @property
    def name(self) -> str:
        """Return its name, for messages."""

    @property
    def table(self) -> object | None:
        """Return the `Resident` that finds it in the pool."""

    @property
    def rows(self) -> object | None:
        """Return the `HostAdapter`, if it is in host memory."""


class UsesView(Protocol):
    """The adapters that a sequence's tokens meet; see `AnyAdapter`."""

    @property
    def uses(self) -> Sequence[tuple[EntryView, float]]:
        """Return each with its weight."""

    @property
    def parts(self) -> Sequence[EntryView]:
        """Return them without weights."""


class SequenceView(Protocol):
    """A sequence, as a step needs it; see `serving.core.sequence.Sequence`."""

    @property
    def adapter(self) -> UsesView | None:
        """Return what its tokens meet; chunks of equal objects lie side by side."""

    @property
    def num_computed(self) -> int:
        """Return the number of its tokens before those of the step."""

    @property
    def num_prompt(self) -> int:
        """Return the number of tokens of its prompt."""

    @property
    def blocks(self) -> list[int]:
        """Return its own blocks."""

    @property
    def prefix_of(self) -> EntryView | None:
        """Return the adapter whose virtual tokens these are, if they are."""


class StepView(Protocol):
    """A sequence's part of a step, as those see it who compute it: rank 0 has `ScheduledChunk`s,
    and other ranks what rank 0 has told them."""

    @property
    def sequence(self) -> SequenceView:
        """Return the sequence."""

    @property
    def count(self) -> int:
        """Return the number of tokens to compute."""

    @property
    def tokens(self) -> list[int]:
        """Return these tokens."""

    @property
    def is_due(self) -> bool:
        """Return whether the next token is chosen after them."""

    @property
    def scored(self) -> range:
        """Return which of them, counted from the first, have the token of the prompt that follows
        scored."""


class MergedView(Protocol):
    """Base layers with one adapter in their weights; see `Merged`."""

    @property
    def entry(self) -> EntryView | None:
        """Return the adapter; None where the tokens' adapters are told without it."""

    @property
    def layers(self) -> Any:
        """Return the merged layers, by those whose places they take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStep:
    """T tokens of S chunks; those of a sequence, or an adapter, lie side by side."""

    chunks: list[StepView]
    """In the order of the batch."""
    met: list[Met]
    """Shape [S]: the adapters that each chunk's tokens meet."""
    counts: list[int]
    """Shape [S]: tokens of each chunk."""
    starts: list[int]
    """Shape [S + 1]: the first token of each chunk, and T."""
    token_ids: list[int]
    """Shape [T]."""
    positions: LongArray
    """Shape [T]: as the model counts them, virtual tokens in front counted."""
    places: IntArray
    """Shape [T]: place in the sequence's blocks, counted from their beginning."""
    token_sequence: IntArray
    """Shape [T]: index of the token's chunk."""
    sequence_start: IntArray
    """Shape [S]: first place that is part of the sequence; 0 but for prefixes."""
    block_tables: IntArray
    """Shape [S, longest]: blocks of each sequence, in order."""
    virtual: tuple[int, Tensor] | None
    """See `StepBatch.virtual`."""
    due: list[int]
    """The chunks whose sequence's next token is due."""
    scored: list[StepView]
    """The chunks of which prompt tokens are scored."""
    scored_rows: list[int]
    """The tokens of these after which the one that follows is scored, by their places."""
    merged: Mapping[DenseLinear, DenseLinear]
    """See `StepBatch.merged`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """The arrays of a step, built once and shared by all layers; T tokens."""

    token_ids: Tensor  # [1, T] int64
    positions: Tensor  # [1, T] int64, virtual tokens in front counted
    virtual: tuple[int, Tensor] | None = None
    """The first of the tokens that are given by embeddings [n, hidden], and these; their
    `token_ids` mean nothing."""
    attention: Any
    """Tokens, sequences and blocks, as the backend's `PagedAttention` takes them."""
    adapters: Any = None
    """What the adapters do to linear layers, as the backend's `AdapterOperations` take it; None
    where none acts on any: the plain path is taken."""
    edits: EditBatch | None = None
    parts: PartBatch | None = None
    """The trained parts that adapters have beside that; None where no token meets any."""
    sampled: list[Any]
    """Sequences whose next token is due after this step."""
    logit_rows: Tensor  # [len(sampled) or more] int64: their last tokens' places in the batch
    scored: list[Any] = field(default_factory=list)
    """Chunks of which prompt tokens are scored."""
    scored_rows: Tensor | None = None  # [rows] int64: as in `HostStep`; None: there are none
    merged: Mapping[DenseLinear, DenseLinear] = field(default_factory=dict)
    """Layers that this step uses in the place of others: those with the hot adapter merged."""
    key: Hashable = None
    """Steps of one key differ in what is in their arrays alone: the same arrays, at the same
    places. None: the step is like no other."""


class Lowering(Protocol):
    """Makes the arrays of one backend."""

    def lower(self, step: HostStep) -> StepBatch:
        """Return `step` as arrays."""


def sampled(step: HostStep) -> list[SequenceView]:
    """Return the sequences whose next token is due."""
    return [step.chunks[i].sequence for i in step.due]
