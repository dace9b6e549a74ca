"""Makes base layers with a low-rank adapter in their weights: W + s B A, packed again."""

import threading
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import AdapterReplacedError
from gossamer.kernels.dense_linear import DenseLinear
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.packing.packer import HostAdapter
from gossamer.serving.packing.rows import HostRows
from gossamer.serving.runner.attach import AdaptedModules
from gossamer.serving.store.reader import Loader


class LayerMerger:
    """Makes merged copies of a model's layers. Called on a thread of its own."""

    def __init__(self, loader: Loader, modules: AdaptedModules) -> None:
        self._loader = loader
        self._modules = modules

    def __call__(
        self, entry: AdapterEntry, stop: threading.Event
    ) -> dict[DenseLinear, DenseLinear] | None:
        """Make copies of the layers that `entry` adapts, by layer; None once `stop` is set.

        The adapter is read again, and merged as its rows rest in the pool (rounded, with int8), so
        that its difference to others is that of the rows. Raises `AdapterError`s of reading, or
        `AdapterReplacedError` if other files lie there now.
        """
        loaded = self._loader.load(entry)
        if loaded.facts.digest != entry.digest:
            raise AdapterReplacedError(f"adapter {entry.name} was replaced on disk")
        return self.merged(loaded.rows, stop)

    @torch.no_grad()
    def merged(
        self, rows: HostAdapter, stop: threading.Event
    ) -> dict[DenseLinear, DenseLinear] | None:
        """Make copies of the layers that the low-rank `rows` adapt; None once `stop` is set."""
        part = rows.parts["lora"]
        assert isinstance(part, HostRows)
        updates = self._updates(part)
        merged: dict[DenseLinear, DenseLinear] = {}
        for dense, parts in updates.items():
            if stop.is_set():
                return None
            merged[dense] = dense.plus([(low, _product(*factors)) for low, *factors in parts])
        return merged

    def _updates(self, rows: HostRows) -> dict[DenseLinear, list[Any]]:
        """Group (first output, A, B transposed, scale) of each adapted module by layer."""
        found: dict[DenseLinear, list[Any]] = {}
        by_id = {module: path for path, module in self._modules.ids.items()}
        for module in rows.table.rank.nonzero()[0].tolist():
            linear = self._modules.linears[by_id[module]]
            scale = float(rows.table.scale[module])
            found.setdefault(linear.dense, []).append((linear.low, *rows.factors(module), scale))
        return found


def _product(a: Tensor, b_t: Tensor, scale: float) -> Tensor:
    return scale * (b_t.T @ a)
