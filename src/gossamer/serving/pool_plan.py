"""What fits into a pool: adapters of which rank and kind, beside how many tokens."""

from dataclasses import dataclass

import torch

from gossamer.basemodel.find import resolve
from gossamer.errors import SettingError
from gossamer.serving.device.cuda import usual_share
from gossamer.serving.packing.capacity import BaseSizes, Cost, PoolSizes
from gossamer.serving.packing.kinds import usual_costs
from gossamer.serving.packing.low_rank import EXAMPLE_RANKS
from gossamer.serving.runner.model_shape import base_sizes
from gossamer.serving.settings import PlanSettings

_GIB = 1024**3
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
_USUAL_GIB = 4.0
"""The size of a pool on a CPU with enough memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """A pool, divided into room for tokens and room for adapters."""

    settings: PlanSettings
    dtype: str
    """Number format of weights, keys and values."""
    rows: str
    """Number format of low-rank rows."""
    memory_gib: float
    """Size of the pool."""
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
    dtype, rows = _formats(settings)
    is_full = settings.adapter_sharding == "full"
    if is_full and settings.device == "cuda":
        raise SettingError(
            "setting 'adapter_sharding' full: it is not for the kernels of a GPU; use replicated"
        )
    sizes = base_sizes(
        resolve(settings.model), _WIDTHS[dtype], settings.quantization, settings.tensor_parallel
    )
    memory_gib = _memory_gib(settings, sizes)
    block_tokens = settings.block_tokens
    block_bytes = sizes.token_bytes * block_tokens
    widest = max(max(shape) for shape in sizes.shape.linears.values()) * 4
    if block_bytes < widest:
        raise SettingError(
            f"setting 'block_tokens' {block_tokens}: a block must hold the widest adapter row "
            f"({widest} bytes); give at least {-(-widest // sizes.token_bytes)}"
        )
    num_blocks = int(memory_gib * _GIB) // block_bytes
    half = num_blocks * block_tokens // 2
    tokens = half if settings.tokens is None else settings.tokens
    left = num_blocks - -(-tokens // block_tokens)
    if left < 0:
        raise SettingError(
            f"setting 'tokens' {tokens}: the pool of {memory_gib:g} GiB holds "
            f"{num_blocks * block_tokens} tokens; give fewer or more setting 'memory_gib'"
        )
    pool = PoolSizes(
        base=sizes,
        block_tokens=block_tokens,
        row_width=_WIDTHS[rows],
        device_tables=settings.device == "cuda",
        split_ranks=settings.tensor_parallel if is_full else 1,
    )
    return PoolPlan(
        settings=settings,
        dtype=dtype,
        rows=rows,
        memory_gib=memory_gib,
        sizes=sizes,
        num_blocks=num_blocks,
        tokens=tokens,
        left=left,
        costs=usual_costs(pool),
    )


def _formats(settings: PlanSettings) -> tuple[str, str]:
    """Return the number formats of the base and of low-rank rows, as `gossamer serve` has them."""
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "float32" if settings.device == "cpu" else "bfloat16"
    rows = settings.rows
    if rows == "auto":
        rows = "bfloat16" if dtype == "bfloat16" else "float32"
    return dtype, rows


def _memory_gib(settings: PlanSettings, sizes: BaseSizes) -> float:
    if settings.memory_gib is not None:
        return settings.memory_gib
    if settings.device == "cpu":
        return _USUAL_GIB
    if not torch.cuda.is_available():
        raise SettingError(
            "setting 'memory_gib' is needed: no GPU is visible here whose memory could be asked for"
        )
    free, _ = torch.cuda.mem_get_info()
    left = usual_share(free - sizes.weight_bytes)
    if left <= 0:
        raise SettingError(
            f"setting 'dtype' {settings.dtype}: the weights take {sizes.weight_bytes / _GIB:.1f} "
            f"GiB and {free / _GIB:.1f} GiB of the GPU are free"
        )
    return left / _GIB
