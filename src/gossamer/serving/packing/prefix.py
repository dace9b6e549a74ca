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

    num_tokens: int
    """Virtual tokens."""
    layout: KvLayout
    states: Tensor | None
    """Keys and values as they will lie, [blocks, *shape of a block]; the last virtual token is the
    last of the last block. None: the base model computes them in steps."""
    embeddings: Tensor | None
    """What it computes them from, [tokens, hidden]."""

    @property
    def num_blocks(self) -> int:
        """Blocks that its keys and values take."""
        return -(-self.num_tokens // self.layout.block_tokens)

    @property
    def num_bytes(self) -> int:
        """Bytes of its keys and values."""
        return self.num_tokens * (self.layout.block_bytes // self.layout.block_tokens)

    def place(self, pool: Tensor, blocks: list[int]) -> PrefixTable:
        """Copy given keys and values into `blocks`; computed ones are there already."""
        if self.states is not None:
            view = self.layout.view(pool)
            for block, states in zip(blocks, self.states, strict=True):
                view[block].copy_(states, non_blocking=True)
        return PrefixTable(blocks=tuple(blocks), num_tokens=self.num_tokens)


def pack_prefix(adapter: PrefixAdapter, target: PackTarget) -> Parts:
    """Lay out a prefix, whether its keys and values are given or have to be computed."""
    part = PrefixPart(
        num_tokens=adapter.num_virtual_tokens,
        layout=target.layout,
        states=None if adapter.keys_values is None else _in_blocks(adapter.keys_values, target),
        embeddings=adapter.embeddings,
    )
    return {"prefix": part}


def _in_blocks(keys_values: Tensor, target: PackTarget) -> Tensor:
    """Keys and values [tokens, layers, 2, heads, head width] as they lie in blocks, in the pool's
    number format; what stands before the first is zero."""
    layout, count = target.layout, len(keys_values)
    num_blocks = -(-count // layout.block_tokens)
    spare = num_blocks * layout.block_tokens - count
    states = target.empty(num_blocks * layout.block_bytes // layout.dtype.itemsize, layout.dtype)
    states = states.view(num_blocks, *layout.shape)
    states[0, :, :, :, :spare] = 0
    # By blocks and the tokens in each: [blocks, tokens, layers, 2, heads, head width].
    by_token = states.permute(0, 4, 1, 2, 3, 5)
    low = 0
    for block in by_token:
        room = layout.block_tokens - (spare if low == 0 else 0)
        block[layout.block_tokens - room :] = keys_values[low : low + room]
        low += room
    return states


def cost_of_prefix(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of the keys and values of virtual tokens (prompt and prefix tuning)."""
    tokens = 20
    cost = Cost(
        num_bytes=tokens * pool.base.token_bytes, num_blocks=-(-tokens // pool.block_tokens)
    )
    return {f"prefix: {tokens} virtual tokens": cost}
