"""What may be spent on reading one adapter, judged from its header before weights are read."""

from dataclasses import dataclass, field

import torch

from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.adapters.reading.safetensors_header import Header
from gossamer.errors import CapacityError

_FLOAT, _HALF = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The limits, and the memory that an adapter would have to fit into."""

    limits: AdapterLimits = field(default_factory=AdapterLimits)
    pool_bytes: int | None = None
    """The bytes of a server's pool; None where adapters are not served."""
    low_rank_width: int | None = None
    """Bytes of an element of low-rank rows; None: as saved."""

    def require_room(self, name: str, num_bytes: int) -> None:
        """Raise `CapacityError` if `num_bytes` are more than the pool has."""
        if self.pool_bytes is not None and num_bytes > self.pool_bytes:
            raise CapacityError(
                f"adapter {name} takes {num_bytes:,} bytes at least and the pool has "
                f"{self.pool_bytes:,}; serve with more --memory"
            )

    def require_room_for(self, name: str, header: Header, *, low_rank: bool = False) -> None:
        """Require room for a file's tensors as the pool would hold them: as float32, or as saved
        if all are bfloat16."""
        width = self.low_rank_width if low_rank else None
        if width is None:
            width = _HALF if header.dtype == torch.bfloat16 else _FLOAT
        self.require_room(name, width * header.numel)


UNBOUND = Budget()
"""The limits as they are by default, for memory of any size."""
