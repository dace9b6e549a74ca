"""Base layers with a low-rank adapter in their weights: W + s B A, packed anew."""

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import AdapterReplacedError
from gossamer.kernels.dense_linear import DenseLinear
from gossamer.serving.adapter_entry import AdapterEntry
from gossamer.serving.adapter_rows import HostRows
from gossamer.serving.adapter_store import Loader
from gossamer.serving.attach import AdaptedModules


class LayerMerger:
    """Makes merged copies of a model's layers. Called on a thread of its own."""

    def __init__(self, loader: Loader, modules: AdaptedModules) -> None:
        self._loader = loader
        self._modules = modules

    @torch.no_grad()
    def __call__(
        self, entry: AdapterEntry, stop: threading.Event
    ) -> dict[DenseLinear, DenseLinear] | None:
        """Copies of the layers that `entry` adapts, by layer; None once `stop` is set.

        The adapter is read again, and merged as its rows rest in the pool (rounded, with int8), so
        that its difference to others is that of the rows. Raises `AdapterError`s of reading, or
        `AdapterReplacedError` if other files lie there now.
        """
        loaded = self._loader.load(entry)
        if loaded.digest != entry.digest:
            raise AdapterReplacedError(f"adapter {entry.name} was replaced on disk")
        updates = self._updates(loaded.rows.parts["lora"].rows)
        merged: dict[DenseLinear, DenseLinear] = {}
        for dense, parts in updates.items():
            if stop.is_set():
                return None
            merged[dense] = dense.plus([(low, _product(*factors)) for low, *factors in parts])
        return merged

    def _updates(self, rows: HostRows) -> dict[DenseLinear, list[Any]]:
        """(first output, A, B transposed, scale) of each adapted module, by layer."""
        found: dict[DenseLinear, list[Any]] = {}
        factors = _factors(rows)
        by_id = {module: path for path, module in self._modules.ids.items()}
        for module in rows.rank.nonzero()[0].tolist():
            linear = self._modules.linears[by_id[module]]
            a, b_t = next(factors)
            scale = float(rows.scale[module])
            found.setdefault(linear.dense, []).append((linear.low, a, b_t, scale))
        return found


def _factors(rows: HostRows) -> Iterator[tuple[Tensor, Tensor]]:
    """A [rank, h_in] and B transposed [rank, h_out] of each module as float32, in their order."""
    row_scale = torch.from_numpy(rows.row_scale)
    first = 0
    for a, b_t in zip(rows.factors[::2], rows.factors[1::2], strict=True):
        middle, last = first + len(a), first + len(a) + len(b_t)
        yield (
            a.float() * row_scale[first:middle, None],
            b_t.float() * row_scale[middle:last, None],
        )
        first = last


def _product(a: Tensor, b_t: Tensor, scale: float) -> Tensor:
    return scale * (b_t.T @ a)
