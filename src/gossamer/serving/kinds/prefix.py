"""Virtual tokens in host memory; the runner turns them into keys and values in blocks."""

from dataclasses import dataclass

from gossamer.adapters.prefix import PrefixAdapter


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixPart:
    """A prefix for blocks of `block_tokens` tokens."""

    adapter: PrefixAdapter
    block_tokens: int
    token_bytes: int
    """Of keys and values of one token in the pool."""

    @property
    def num_blocks(self) -> int:
        """Blocks that its keys and values take."""
        return -(-self.adapter.num_tokens // self.block_tokens)

    @property
    def num_bytes(self) -> int:
        """What its keys and values weigh."""
        return self.adapter.num_tokens * self.token_bytes
