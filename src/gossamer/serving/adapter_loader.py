"""Adapters of any kind from disk into the pool of a model."""

from pathlib import Path

from torch import Tensor

from gossamer.adapters.budget import Budget
from gossamer.adapters.intervention import InterventionAdapter
from gossamer.adapters.limits import AdapterLimits
from gossamer.adapters.load import Adapter, BaseShape, load_adapter
from gossamer.adapters.prefix import PrefixAdapter
from gossamer.serving.adapter_entry import AdapterEntry
from gossamer.serving.adapter_reader import Loaded
from gossamer.serving.kinds.pack import HostAdapter, Packer
from gossamer.serving.kinds.resident import Resident
from gossamer.serving.runner import Runner


class AdapterLoader:
    """Reads adapters and writes them into blocks."""

    def __init__(
        self,
        runner: Runner,
        base: BaseShape,
        packer: Packer,
        pool: Tensor,
        base_fingerprint: str,
        limits: AdapterLimits,
    ) -> None:
        """`limits`: what is read of an adapter at most; what `pool` cannot hold is not read."""
        self._runner = runner
        self._base = base
        self._pool = pool
        self._base_fingerprint = base_fingerprint
        self._packer = packer
        self._budget = Budget(
            limits=limits, pool_bytes=pool.numel(), low_rank_width=packer.low_rank_width
        )

    def load(self, entry: AdapterEntry) -> Loaded:
        """Read and check the adapter's files."""
        path: Path = entry.path
        adapter = load_adapter(
            path,
            base=self._base,
            base_fingerprint=self._base_fingerprint,
            budget=self._budget,
        )
        rows = self._packer.pack(adapter)
        return Loaded(
            rows=rows,
            num_blocks=rows.num_blocks,
            num_bytes=rows.num_bytes,
            rank=adapter.max_rank,
            digest=adapter.digest,
            kind=adapter.kind,
            num_virtual_tokens=adapter.num_tokens if isinstance(adapter, PrefixAdapter) else 0,
            edited=_edited(adapter),
            # A prefix is computed by the model, which only the engine's thread may use.
            is_copied=rows.prefix is None,
        )

    def place(self, rows: HostAdapter, blocks: list[int]) -> Resident:
        """Copy an adapter into blocks."""
        return rows.place(self._pool, blocks, self._runner)


def _edited(adapter: Adapter) -> tuple[int, int] | None:
    if not isinstance(adapter, InterventionAdapter):
        return None
    return adapter.first_positions, adapter.last_positions
