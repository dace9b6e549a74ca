"""Brings adapters of any kind from disk into the pool of a model."""

from pathlib import Path

from gossamer.adapters.load import Adapter, BaseShape, load_adapter
from gossamer.adapters.reading.budget import Budget
from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.errors import UnsupportedAdapterError
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.adapter_state import AdapterFacts
from gossamer.serving.core.tickets import Ticket
from gossamer.serving.device.device import Copier
from gossamer.serving.packing.packer import HostAdapter, Packer
from gossamer.serving.store.reader import Loaded


class AdapterLoader:
    """Reads adapters and writes them into blocks."""

    def __init__(
        self,
        base: BaseShape,
        packer: Packer,
        copier: Copier,
        base_fingerprint: str,
        base_quantization: str,
        limits: AdapterLimits,
        max_context: int,
    ) -> None:
        """`limits`: what is read of an adapter at most; what the pool of `copier` cannot hold is
        not read, and what leaves no room in `max_context` positions is refused."""
        self._max_context = max_context
        self._base = base
        self._copier = copier
        self._base_fingerprint = base_fingerprint
        self._base_quantization = base_quantization
        self.packer = packer
        self._budget = Budget(
            limits=limits,
            pool_bytes=copier.pool.numel(),
            low_rank_width=packer.low_rank_width,
        )

    def load(self, entry: AdapterEntry) -> Loaded:
        """Read and check the adapter's files."""
        adapter = self.read(entry.path)
        rows = self.packer.pack(adapter)
        return self.loaded(adapter, rows, rows.num_blocks)

    def read(self, path: Path) -> Adapter:
        """Read and check the files of the adapter at `path`, without laying it out."""
        adapter = load_adapter(
            path,
            base=self._base,
            base_fingerprint=self._base_fingerprint,
            base_quantization=self._base_quantization,
            budget=self._budget,
        )
        self._require_context(adapter)
        return adapter

    def loaded(self, adapter: Adapter, rows: HostAdapter, num_blocks: int) -> Loaded:
        """Return what others are told of `adapter`, laid out as `rows`, which take `num_blocks`."""
        return Loaded(
            rows=rows,
            facts=AdapterFacts(
                num_blocks=num_blocks,
                num_bytes=rows.num_bytes,
                rank=adapter.max_rank,
                digest=adapter.digest,
                kind=adapter.kind,
                num_virtual_tokens=adapter.num_virtual_tokens,
                edited=adapter.edited_positions,
                is_copied=rows.virtual_tokens is None,
            ),
        )

    def place(self, rows: HostAdapter, blocks: list[int], after: int) -> Ticket:
        """See `Placer.place`; the ticket's result is a `Resident`."""
        return self._copier.place(rows, blocks, after)

    def _require_context(self, adapter: Adapter) -> None:
        """Raise `UnsupportedAdapterError` for virtual tokens that leave no room for a prompt."""
        most = self._max_context - 2
        if adapter.num_virtual_tokens > most:
            raise UnsupportedAdapterError(
                f"adapter {adapter.name} has num_virtual_tokens={adapter.num_virtual_tokens}; in "
                f"the context length of {self._max_context} (max_context) there may be "
                f"{max(0, most)}, so that a prompt and an answer fit behind them"
            )
