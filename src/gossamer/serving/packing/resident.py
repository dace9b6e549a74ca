"""An adapter in the pool, as the batch of a step sees it."""

from dataclasses import dataclass

from gossamer.kernels.gain import GainTable
from gossamer.kernels.grouped_lora import LoraTable, RowFormat
from gossamer.kernels.hidden_edit import EditTable
from gossamer.kernels.sparse_delta import SparseTable
from gossamer.kernels.split_lora import SplitTable
from gossamer.kernels.trained_parts.bottleneck import BottleneckTable
from gossamer.kernels.trained_parts.shift import ShiftTable
from gossamer.kernels.trained_parts.side_network import SideTable
from gossamer.kernels.trained_parts.streams import StreamTable
from gossamer.kernels.trained_parts.table_factors import FactorTable
from gossamer.kernels.trained_parts.token_rows import RowTable


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixTable:
    """Keys and values that stand in front of a sequence's own."""

    blocks: tuple[int, ...]
    num_tokens: int
    """Virtual tokens; they fill the blocks' ends, so that what follows begins with a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTables:
    """The tables that GPU kernels read of an adapter, in its own blocks; places in bytes."""

    lora: int = -1
    """Place in the pool of the headers of its low-rank rows and gains; -1: it has neither."""
    sparse: int = -1
    """Place in the pool of the headers of its sparse changes; -1: it has none."""
    cost: float = 0.0
    """What reading it costs: its ranks or its entries, summed over the modules."""
    scaled_inputs: frozenset[int] = frozenset()
    """The modules whose inputs it scales."""
    row_format: RowFormat | None = None
    """The format of its low-rank rows, if it has some."""
    half_values: bool | None = None
    """Whether its sparse values are bfloat16, if it has some."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resident:
    """The tables of an adapter in the pool; None for what it does not do. Equal to itself alone.

    Where kernels read tables from the pool, `tables` says where, and there are no `lora`, `gain`
    and `sparse` in host memory.
    """

    lora: LoraTable | None = None
    split: SplitTable | None = None
    """In the place of `lora`, where ranks have divided both factors."""
    gain: GainTable | None = None
    sparse: SparseTable | None = None
    edit: EditTable | None = None
    prefix: PrefixTable | None = None
    shift: ShiftTable | None = None
    bottleneck: BottleneckTable | None = None
    side: SideTable | None = None
    streams: StreamTable | None = None
    embedding: RowTable | None = None
    """Rows of tokens in the embedding."""
    output: RowTable | None = None
    """Rows of tokens in the output layer."""
    embedding_factors: FactorTable | None = None
    """A low-rank change of the embedding."""
    output_factors: FactorTable | None = None
    """A low-rank change of the output layer."""
    tables: DeviceTables | None = None

    @property
    def has_trained_parts(self) -> bool:
        """Whether it has any of the parts that plain torch computes."""
        of_tokens = (self.embedding, self.output, self.embedding_factors, self.output_factors)
        networks = (self.bottleneck, self.side, self.streams)
        return any(part is not None for part in (self.shift, *networks, *of_tokens))
