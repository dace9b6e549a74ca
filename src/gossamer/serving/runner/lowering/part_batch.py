"""The trained parts that the tokens of a step meet, as plain torch takes them on any device."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gossamer.kernels.trained_parts.bottleneck import BottleneckTable
from gossamer.kernels.trained_parts.shift import ShiftBatch
from gossamer.kernels.trained_parts.side_network import SideTable
from gossamer.kernels.trained_parts.streams import StreamTable
from gossamer.kernels.trained_parts.table_factors import FactorTable
from gossamer.kernels.trained_parts.token_rows import RowTable

TokenTable = RowTable | FactorTable


@dataclass(frozen=True, slots=True, kw_only=True)
class PartBatch:
    """What the adapters of a step do beside the linear operations of their kinds."""

    shifts: ShiftBatch | None = None
    """Vectors that are added; None: no token meets any."""
    bottlenecks: list[tuple[int, int, BottleneckTable]] = field(default_factory=list)
    """First token, number of tokens, and the networks that they meet."""
    sides: list[tuple[int, int, SideTable]] = field(default_factory=list)
    """First token, number of tokens, and the side network that makes what late layers read."""
    streams: list[tuple[int, int, StreamTable]] = field(default_factory=list)
    """First token, number of tokens, and the networks beside the layers that they pass through in
    two streams."""
    embeddings: list[tuple[int, int, TokenTable]] = field(default_factory=list)
    """First token, number of tokens, and what they meet of the embedding: rows in the place of its
    own, and then what is added to them."""
    outputs: list[tuple[int, int, TokenTable]] = field(default_factory=list)
    """First token, number of tokens, and what they meet of the output layer, in the same order."""
    output_rows: list[tuple[list[int], TokenTable]] = field(default_factory=list)
    """The rows of logits that `outputs` make; see `at`."""

    @property
    def act_between_blocks(self) -> bool:
        """Whether some tokens' states are changed between decoder blocks, or inside them."""
        return bool(self.sides or self.streams)

    def at(self, places: Sequence[int]) -> "PartBatch":
        """Return the same for logits of the tokens at `places` of the batch, in this order."""
        if not self.outputs:
            return self
        found = [
            ([row for row, place in enumerate(places) if first <= place < first + count], table)
            for first, count, table in self.outputs
        ]
        return replace(self, output_rows=[(rows, table) for rows, table in found if rows])
