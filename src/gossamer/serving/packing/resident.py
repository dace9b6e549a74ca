"""An adapter in the pool, as the batch of a step sees it."""

from dataclasses import dataclass

from gossamer.kernels.gain import GainTable
from gossamer.kernels.grouped_lora import LoraTable
from gossamer.kernels.hidden_edit import EditTable
from gossamer.kernels.sparse_delta import SparseTable


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixTable:
    """Keys and values that stand in front of a sequence's own."""

    blocks: tuple[int, ...]
    num_tokens: int
    """Virtual tokens; they fill the blocks' ends, so that what follows begins with a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """The tables of an adapter in the pool; None for what it does not do."""

    lora: LoraTable | None = None
    gain: GainTable | None = None
    sparse: SparseTable | None = None
    edit: EditTable | None = None
    prefix: PrefixTable | None = None
