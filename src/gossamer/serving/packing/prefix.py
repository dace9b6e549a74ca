"""Virtual tokens as keys and values in blocks."""

from dataclasses import dataclass

from torch import Tensor

from gossamer.adapters.kinds.prefix import PrefixAdapter
from gossamer.kernels.paged_attention import KvLayout
from gossamer.serving.packing.capacity import Cost, PoolSizes
from gossamer.serving.packing.resident import PrefixTable
from gossamer.serving.packing.target import PackTarget, Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixPart:
    """A prefix in host memory, for blocks of a layout."""

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
        """Bytes of its keys and values."""
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


def pack_prefix(adapter: PrefixAdapter, target: PackTarget) -> Parts:
    """Lay out a prefix, whether its keys and values are given or have to be computed."""
    return {"prefix": PrefixPart(adapter=adapter, layout=target.layout)}


def cost_of_prefix(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of the keys and values of virtual tokens (prompt and prefix tuning)."""
    tokens = 20
    cost = Cost(
        num_bytes=tokens * pool.base.token_bytes, num_blocks=-(-tokens // pool.block_tokens)
    )
    return {f"prefix: {tokens} virtual tokens": cost}
