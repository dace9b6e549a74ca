"""What fits into a pool: adapters of which rank and kind, beside how many tokens."""

from dataclasses import dataclass

from gossamer.basemodel.find import resolve
from gossamer.errors import SettingError
from gossamer.serving.packing.capacity import BaseSizes, Cost, PoolSizes
from gossamer.serving.packing.kinds import usual_costs
from gossamer.serving.packing.low_rank import EXAMPLE_RANKS
from gossamer.serving.runner.model_shape import base_sizes
from gossamer.serving.settings import PlanSettings

_GIB = 1024**3
_WIDTHS = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """A pool, divided into room for tokens and room for adapters."""

    settings: PlanSettings
    sizes: BaseSizes
    num_blocks: int
    """Blocks of the whole pool."""
    tokens: int
    """Tokens of running requests that have their room."""
    left: int
    """Blocks left for adapters beside those tokens."""
    costs: dict[str, Cost]
    """What one adapter takes, by a description of it."""

    @property
    def block_bytes(self) -> int:
        """The size of a block."""
        return self.sizes.token_bytes * self.settings.block_tokens

    @property
    def num_tokens(self) -> int:
        """The tokens that the pool holds without adapters."""
        return self.num_blocks * self.settings.block_tokens

    def blocks_per_rank(self) -> dict[int, int]:
        """Count the blocks of an adapter on all linear layers, by its rank."""
        return {
            rank: self.costs[f"low-rank {rank}, all linear"].num_blocks for rank in EXAMPLE_RANKS
        }


def plan_pool(settings: PlanSettings) -> PoolPlan:
    """Divide the pool of `settings`; raises `SettingError` for what cannot be divided so."""
    sizes = base_sizes(resolve(settings.model))
    block_tokens = settings.block_tokens
    block_bytes = sizes.token_bytes * block_tokens
    widest = max(max(shape) for shape in sizes.shape.linears.values()) * 4
    if block_bytes < widest:
        raise SettingError(
            f"setting 'block_tokens' {block_tokens}: a block must hold the widest adapter row "
            f"({widest} bytes); give at least {-(-widest // sizes.token_bytes)}"
        )
    num_blocks = int(settings.memory_gib * _GIB) // block_bytes
    half = num_blocks * block_tokens // 2
    tokens = half if settings.tokens is None else settings.tokens
    left = num_blocks - -(-tokens // block_tokens)
    if left < 0:
        raise SettingError(
            f"setting 'tokens' {tokens}: the pool of {settings.memory_gib:g} GiB holds "
            f"{num_blocks * block_tokens} tokens; give fewer or more setting 'memory_gib'"
        )
    pool = PoolSizes(base=sizes, block_tokens=block_tokens, row_width=_WIDTHS[settings.rows])
    return PoolPlan(
        settings=settings,
        sizes=sizes,
        num_blocks=num_blocks,
        tokens=tokens,
        left=left,
        costs=usual_costs(pool),
    )
