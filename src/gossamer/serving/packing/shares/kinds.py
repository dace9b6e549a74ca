"""What one rank packs of an adapter: the share that acts on its own share of the layers."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from gossamer.adapters.kinds.dora import DoraAdapter
from gossamer.adapters.kinds.ia3 import Ia3Adapter
from gossamer.adapters.kinds.prefix import PrefixAdapter
from gossamer.adapters.kinds.sparse_delta import Blocks, Delta, Entries, SparseAdapter
from gossamer.serving.shard import ModuleSlice, Slices


def share_of_dora(adapter: DoraAdapter, slices: Slices) -> DoraAdapter:
    """Return `adapter` with the lengths of the rank's own outputs; its factors stay whole."""
    return replace(adapter, magnitudes=_outputs(adapter.magnitudes, slices))


def share_of_ia3(adapter: Ia3Adapter, slices: Slices) -> Ia3Adapter:
    """Return `adapter` with the factors of the rank's own outputs and inputs."""
    inputs = {path: g[slices.of(path).inputs] for path, g in adapter.inputs.items()}
    return replace(adapter, outputs=_outputs(adapter.outputs, slices), inputs=inputs)


def share_of_prefix(adapter: PrefixAdapter, slices: Slices) -> PrefixAdapter:
    """Return `adapter` with the keys and values of the rank's own heads; embeddings stay whole."""
    if adapter.keys_values is None:
        return adapter
    return replace(adapter, keys_values=adapter.keys_values[:, :, :, slices.kv_heads])


def share_of_sparse(adapter: SparseAdapter, slices: Slices) -> SparseAdapter:
    """Return `adapter` with the changes in the rank's own rows and columns, counted from its own.

    Ranks have changes of different sizes, and one may have none.
    """
    deltas = {}
    for path, delta in adapter.deltas.items():
        part = slices.modules.get(path)
        deltas[path] = delta if part is None else _cut(delta, part)
    return replace(adapter, deltas=deltas)


def _outputs(factors: Mapping[str, Tensor], slices: Slices) -> dict[str, Tensor]:
    return {path: factor[slices.of(path).outputs] for path, factor in factors.items()}


def _cut(delta: Delta, part: ModuleSlice) -> Delta:
    rows, columns = _bounds(part.outputs), _bounds(part.inputs)
    if isinstance(delta, Entries):
        inside = _within(delta.rows, *rows) & _within(delta.columns, *columns)
        return Entries(
            delta.rows[inside] - rows[0], delta.columns[inside] - columns[0], delta.values[inside]
        )
    return _cut_blocks(delta, rows, columns)


def _cut_blocks(delta: Blocks, rows: tuple[int, int], columns: tuple[int, int]) -> Blocks:
    """Cut what lies outside off each block; those that lie outside altogether are left out."""
    places, values = [], []
    low = 0
    for row, column, height, width in delta.places.tolist():
        block = delta.values[low : low + height * width].view(height, width)
        low += height * width
        top, bottom = max(row, rows[0]), min(row + height, rows[1])
        left, right = max(column, columns[0]), min(column + width, columns[1])
        if top < bottom and left < right:
            places.append([top - rows[0], left - columns[0], bottom - top, right - left])
            values.append(block[top - row : bottom - row, left - column : right - column])
    return Blocks(
        torch.tensor(places, dtype=torch.int64).reshape(-1, 4),
        torch.cat([value.reshape(-1) for value in values]) if values else delta.values[:0],
    )


def _bounds(part: slice) -> tuple[int, int]:
    """The ends of a slice; of a whole one, those of any place."""
    return (0, 2**31) if part == slice(None) else (part.start, part.stop)


def _within(numbers: Tensor, low: int, high: int) -> Tensor:
    return (numbers >= low) & (numbers < high)
