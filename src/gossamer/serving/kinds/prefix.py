"""Virtual tokens in host memory, and their keys and values in blocks."""

from dataclasses import dataclass

from torch import Tensor

from gossamer.adapters.prefix import PrefixAdapter
from gossamer.kernels.paged_attention import KvLayout
from gossamer.serving.kinds.resident import PrefixTable


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
        return -(-self.adapter.num_tokens // self.layout.block_tokens)

    @property
    def num_bytes(self) -> int:
        """What its keys and values weigh."""
        return self.adapter.num_tokens * (self.layout.block_bytes // self.layout.block_tokens)

    def place(self, pool: Tensor, blocks: list[int]) -> PrefixTable:
        """Copy given keys and values into `blocks`; computed ones are there already.

        Right-aligned: the last virtual token is the last of the last block.
        """
        count, width = self.adapter.num_tokens, self.layout.block_tokens
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
