"""PEFT's configuration of SMT."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gossamer.methods.common.sparse_delta.mask import random_entries
from gossamer.methods.common.tuner_config import ConfigError, GossamerConfig
from gossamer.methods.smt.blocks import Block, cut

PEFT_TYPE = "GOSSAMER_SMT"
_CHOICE = ("blocks", "density", "block_size", "seed")
"""Fields that say how blocks are found; the blocks themselves are stored with the weights."""


@dataclass
class SmtConfig(GossamerConfig):
    """`SmtConfig(blocks=select_blocks(model, batches))` for `get_peft_model`.

    Or `SmtConfig(target_modules=["q_proj", "v_proj"])`: blocks at random in each of these layers,
    which needs no look at the model and is worth less. The blocks are stored with the weights; the
    configuration stores only how many there are.
    """

    tuner_type: ClassVar[str] = PEFT_TYPE

    blocks: dict[str, list[Block]] | None = None
    """Blocks that learn, by path of the linear layer in the base model."""
    layer_sizes: dict[str, list[int]] | None = None
    """Number of blocks and of weights in them, by path; set from `blocks`, or as they are drawn."""
    density: float = 0.01
    """Share of the blocks of each layer that are drawn, one at least, where `blocks` is not
    given."""
    block_size: int = 256
    """Edge of a block that is drawn."""
    seed: int = 0
    """The drawn blocks follow from it and from the layers' names."""

    def __post_init__(self) -> None:
        self.random = self.blocks is None and self.layer_sizes is None
        """Whether blocks are drawn; otherwise they are given, or come with the weights."""
        if not 0 < self.density <= 1:
            raise ConfigError(f"density = {self.density}: must be above 0 and at most 1")
        if self.block_size < 1:
            raise ConfigError(f"block_size = {self.block_size}: must be at least 1")
        if self.blocks is not None:
            self.set_blocks(self.blocks)
        super().__post_init__()

    def set_blocks(self, blocks: dict[str, list[Any]]) -> None:
        """Take these blocks; raises `ConfigError` if layers are named in another way as well."""
        self.blocks = {path: [Block(*b) for b in bs] for path, bs in blocks.items() if bs}
        if self.layer_sizes is not None or set(self.target_modules or ()) == set(self.blocks):
            # Of a configuration that was in use; PEFT may have shortened the names.
            self.target_modules = None
        self.refuse(
            "blocks alone, which names its layers", "target_modules", "exclude_modules",
            "layers_to_transform", "layers_pattern",
        )  # fmt: skip
        self.target_modules = sorted(self.blocks)
        self.layer_sizes = {path: _size(bs) for path, bs in self.blocks.items()}

    def draw(self, path: str, shape: tuple[int, int]) -> list[Block]:
        """Draw blocks of the layer `path`, whose weight is of that `shape` [out, in]."""
        grid = tuple(-(-side // self.block_size) for side in shape)
        rows, columns = random_entries(self.seed, path, (grid[0], grid[1]), self.density).tolist()
        every = cut(shape, self.block_size)
        drawn = [every[i * grid[1] + j] for i, j in zip(rows, columns, strict=True)]
        self.layer_sizes = {**(self.layer_sizes or {}), path: _size(drawn)}
        return drawn

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the blocks and how they were chosen."""
        blocks, self.blocks = self.blocks, None
        try:
            return {name: v for name, v in super().to_dict().items() if name not in _CHOICE}
        finally:
            self.blocks = blocks


def _size(blocks: Sequence[Block]) -> list[int]:
    return [len(blocks), sum(b.size for b in blocks)]
