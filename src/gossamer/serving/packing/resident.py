"""An adapter in the pool, as the batch of a step sees it; and virtual tokens on their way there."""

from dataclasses import dataclass

from torch import Tensor

from gossamer.adapters.kinds.prefix import PrefixAdapter
from gossamer.kernels.gain import GainTable
from gossamer.kernels.grouped_lora import LoraTable
from gossamer.kernels.hidden_edit import EditTable
from gossamer.kernels.paged_attention import KvLayout
from gossamer.kernels.sparse_delta import SparseTable


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixTable:
    """Keys and values that stand in front of a sequence's own."""

    blocks: tuple[int, ...]
    num_tokens: int
    """Virtual tokens; they fill the blocks' ends, so that what follows begins with a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """What an adapter does; None for what it does not."""

    lora: LoraTable | None = None
    gain: GainTable | None = None
    sparse: SparseTable | None = None
    edit: EditTable | None = None
    prefix: PrefixTable | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixPart:
    """A prefix for blocks of a layout."""

    adapter: PrefixAdapter
    layout: KvLayout

    @property
    def is_copied(self) -> bool:
        """Whether its keys and values are given; else the base model computes them in steps."""
        return self.adapter.keys_values is not None

    @property
    def num_blocks(self) -> int:
        """Blocks that its keys and values take."""
        return -(-self.adapter.num_virtual_tokens // self.layout.block_tokens)

    @property
    def num_bytes(self) -> int:
        """What its keys and values weigh."""
        return self.adapter.num_virtual_tokens * (
            self.layout.block_bytes // self.layout.block_tokens
        )

    def place(self, pool: Tensor, blocks: list[int]) -> PrefixTable:
        """Copy given keys and values into `blocks`; computed ones are there already.

        Right-aligned: the last virtual token is the last of the last block.
        """
        count, width = self.adapter.num_virtual_tokens, self.layout.block_tokens
        if self.adapter.keys_values is not None:
            view = self.layout.view(pool)
            # [layers, 2, heads, tokens, head width], as in a block.
            states = self.adapter.keys_values.permute(1, 2, 3, 0, 4)
            end = count
            for block in reversed(blocks):
                begin = max(0, end - width)
                view[block, :, :, :, width - (end - begin) :] = states[:, :, :, begin:end]
                end = begin
        return PrefixTable(blocks=tuple(blocks), num_tokens=count)
