"""Low-rank factors as rows in blocks, moved there from the bytes of their files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.adapters.kinds.low_rank import Factors, LowRankAdapter, Pair, Pairing
from gossamer.adapters.reading.safetensors_header import MOST_HEADERS, Place
from gossamer.kernels.grouped_lora import LoraTable, RowFormat
from gossamer.kernels.transpose import move_matrices
from gossamer.serving.packing.vectors import (
    Empty,
    VectorLayout,
    VectorPart,
    Vectors,
    host_empty,
    lay_out_vectors,
    padded,
)
from gossamer.serving.shard import ALL, ModuleSlice, Slices


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRows(VectorPart):
    """The rows of a checked adapter in host memory.

    For each adapted module those of A [rank, h_in], then those of B transposed [rank, h_out];
    nothing is padded to another rank, and a row only to whole 16 bytes.
    """

    table: LoraTable
    """What the table in the pool will say; its offsets come with the blocks."""
    sizes: Mapping[int, tuple[int, int]]
    """(h_in, h_out) of each adapted module."""

    def place(self, pool: Tensor, blocks: Sequence[int]) -> LoraTable:
        """Copy the rows into `blocks` of the pool's bytes; returns the table that finds them."""
        return replace(self.table, offsets=self.vectors.write(pool, blocks))

    def factors(self, module: int) -> tuple[Tensor, Tensor]:
        """Return A [rank, h_in] and B transposed [rank, h_out] of `module` as float32."""
        first, rank = int(self.table.first_row[module]), int(self.table.rank[module])
        h_in, h_out = self.sizes[module]
        return self._factor(first, rank, h_in), self._factor(first + rank, rank, h_out)

    def _factor(self, first: int, count: int, width: int) -> Tensor:
        bounds = self.vectors.layout.bounds
        rows = self.vectors.data[bounds[first] : bounds[first + count]].view(count, -1)
        scale = torch.from_numpy(self.table.row_scale[first : first + count, None])
        return rows[:, :width].float() * scale


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLayout:
    """Where the rows of an adapter go, worked out from the sizes of its factors alone."""

    table: LoraTable
    """It has no offsets yet."""
    vectors: VectorLayout
    sizes: dict[int, tuple[int, int]]
    """(h_in, h_out) of each adapted module."""
    is_padded: bool
    """Whether there is a row that does not fill whole 16 bytes."""

    def filled(self, data: Tensor) -> HostRows:
        """Return the rows in `data`, which lie there as this says."""
        vectors = Vectors(data=data, layout=self.vectors)
        return HostRows(vectors=vectors, table=self.table, sizes=self.sizes)


def lay_out(
    factors: Mapping[str, Factors | Pair],
    module_ids: Mapping[str, int],
    block_bytes: int,
    row_format: RowFormat,
) -> RowLayout:
    """Lay out `factors`, by module path, for blocks of `block_bytes`.

    Raises `KeyError` for a module that is not in `module_ids`.
    """
    pairs = list(factors.values())
    modules = [module_ids[path] for path in factors]
    rank = np.zeros(len(module_ids), dtype=np.int32)
    rank[modules] = [pair.rank for pair in pairs]
    scale = np.zeros(len(module_ids), dtype=np.float32)
    scale[modules] = [pair.scale for pair in pairs]
    in_order = sorted(zip(modules, pairs, strict=True), key=lambda pair: pair[0])
    sizes = {module: (pair.a.shape[1], pair.b.shape[0]) for module, pair in in_order}
    counts = np.repeat([pair.rank for _, pair in in_order], 2)
    widths = np.array(list(sizes.values())).reshape(-1)
    strides = padded(widths, row_format.dtype.itemsize)
    table = LoraTable(
        first_row=2 * (np.cumsum(rank, dtype=np.int64) - rank),
        rank=rank,
        scale=scale,
        offsets=np.zeros(0, dtype=np.int64),
        row_scale=np.ones(int(counts.sum()), dtype=np.float32),
        format=row_format,
    )
    block_elements = block_bytes // row_format.dtype.itemsize
    return RowLayout(
        table=table,
        vectors=lay_out_vectors(np.repeat(strides, counts), block_elements),
        sizes=sizes,
        is_padded=bool((strides != widths).any()),
    )


KEPT = (RowFormat.FLOAT32, RowFormat.BFLOAT16)
"""The formats in which rows rest as they were saved, where nothing else is said."""

_WORDS = {2: torch.int16, 4: torch.int32}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How the data of files of one kind become rows, if none is padded."""

    layout: RowLayout
    moves: npt.NDArray[np.int64]
    """See `move_matrices`."""


class RowPacker:
    """The packer of low-rank rows for one base model and blocks of one size."""

    def __init__(
        self, module_ids: Mapping[str, int], block_bytes: int, row_format: RowFormat | None = None,
        *, empty: Empty = host_empty, slices: Slices = ALL,
    ) -> None:  # fmt: skip
        """row_format: of all rows (rounded where it has fewer digits; int8: to whole numbers, each
        row with a scale of its own); None: those of `KEPT` stay so, others become float32. empty:
        allocates rows. slices: what of the rows a rank holds."""
        self._slices = slices
        self._ids = module_ids
        self._block_bytes = block_bytes
        self._format = row_format
        self._empty = empty
        self._plan = lru_cache(maxsize=MOST_HEADERS)(self._make_plan)

    def for_share(self, slices: Slices) -> "RowPacker":
        """Return a packer of what one rank holds of the rows."""
        return RowPacker(
            self._ids,
            self._block_bytes,
            self._format,
            empty=self._empty,
            slices=slices,
        )

    def pack(self, adapter: LowRankAdapter) -> HostRows:
        """Lay out the rows of an adapter.

        Rows that rest as they were saved are moved in one pass. Raises `KeyError` for a module that
        the base model does not have.
        """
        if self._format is not RowFormat.INT8:
            elements = adapter.file.elements()
            formats = KEPT if self._format is None else [self._format]
            stays = [each.dtype for each in formats]
            if elements is not None and elements.dtype in stays:
                plan = self._plan(adapter.pairing)
                if not plan.layout.is_padded:
                    return self._moved(elements, plan)
        return self.pack_factors(adapter.factors)

    def _moved(self, elements: Tensor, plan: _Plan) -> HostRows:
        data = self._empty(int(plan.layout.vectors.bounds[-1]), elements.dtype)
        move_matrices(_bits(elements), plan.moves, _bits(data))
        return plan.layout.filled(data)

    def _make_plan(self, pairing: Pairing) -> _Plan:
        """For a file whose tensors all have the type that their rows will have."""
        pairs = pairing.pairs
        dtype = next(iter(pairs.values())).a.dtype
        row_format = next(each for each in RowFormat if each.dtype == dtype)
        shares = {
            path: _shape_of_share(pair, self._slices.of(path)) for path, pair in pairs.items()
        }
        layout = lay_out(shares, self._ids, self._block_bytes, row_format)
        in_order = sorted(pairs, key=self._ids.__getitem__)
        moves = [move for path in in_order for move in _moves(pairs[path], self._slices.of(path))]
        to = np.cumsum([0, *(rows * columns for _, rows, columns in moves)])
        return _Plan(
            layout=layout,
            moves=np.array([[start, low, *n] for (start, *n), low in zip(moves, to, strict=False)]),
        )

    def pack_factors(self, factors: Mapping[str, Factors]) -> HostRows:
        """Lay out `factors`, by module path, tensor by tensor. Raises as `pack`."""
        row_format = self._format
        if row_format is None:
            row_format = format_as_saved(factors)
        shares = {path: _share(pair, self._slices.of(path)) for path, pair in factors.items()}
        layout = lay_out(shares, self._ids, self._block_bytes, row_format)
        paths = sorted(factors, key=self._ids.__getitem__)
        matrices: Iterable[Tensor]
        if row_format is RowFormat.INT8:
            # Scales of whole rows: a rank has the numbers that a single one would have.
            whole = [m for path in paths for m in (factors[path].a, factors[path].b.T)]
            parts = [self._slices.of(path) for path in paths]
            cuts = [columns for part in parts for columns in (part.inputs, part.outputs)]
            rounded = quantised(whole, layout.table.row_scale)
            matrices = (rows[:, columns] for rows, columns in zip(rounded, cuts, strict=True))
        else:
            matrices = [m for path in paths for m in (shares[path].a, shares[path].b.T)]
        data = self._empty(int(layout.vectors.bounds[-1]), row_format.dtype)
        if layout.is_padded:
            data.zero_()
        first = 0
        for matrix in matrices:
            rank, width = matrix.shape
            low, high = layout.vectors.bounds[[first, first + rank]]
            data[low:high].view(rank, -1)[:, :width] = matrix
            first += rank
        return layout.filled(data)


def _share(pair: Factors, part: ModuleSlice) -> Factors:
    """Cut out of the factors what acts on a rank's own inputs and makes its own outputs."""
    return Factors(pair.a[:, part.inputs], pair.b[part.outputs], pair.scale)


def _shape_of_share(pair: Pair, part: ModuleSlice) -> Pair:
    """Return `pair` with the shapes of what a rank holds of it; its places mean nothing."""
    rank, h_in = pair.a.shape
    h_out = pair.b.shape[0]
    a = replace(pair.a, shape=(rank, len(range(h_in)[part.inputs])))
    b = replace(pair.b, shape=(len(range(h_out)[part.outputs]), rank))
    return Pair(a, b, pair.scale)


def _moves(pair: Pair, part: ModuleSlice) -> Iterator[tuple[int, int, int]]:
    """Yield (first element, rows, columns) of what is moved: columns of A, then rows of B, which
    are transposed."""
    rank, h_in = pair.a.shape
    start, columns = _first(pair.a), range(h_in)[part.inputs]
    if len(columns) == h_in:
        yield start, 1, rank * h_in
    else:
        yield from ((start + row * h_in + columns.start, 1, len(columns)) for row in range(rank))
    outputs = range(pair.b.shape[0])[part.outputs]
    yield _first(pair.b) + outputs.start * rank, len(outputs), rank


def _first(place: Place) -> int:
    """The first element of a matrix in its file."""
    return place.start // place.dtype.itemsize


def _bits(tensor: Tensor) -> npt.NDArray[Any]:
    """View elements as whole numbers: numpy knows no bfloat16."""
    return tensor.view(_WORDS[tensor.element_size()]).numpy()


def format_as_saved(factors: Mapping[str, Factors]) -> RowFormat:
    """Return the one of `KEPT` in which all of `factors` were saved, else float32."""
    saved = {matrix.dtype for pair in factors.values() for matrix in (pair.a, pair.b)}
    return next((each for each in KEPT if saved == {each.dtype}), RowFormat.FLOAT32)


def quantised(factors: Iterable[Tensor], row_scale: npt.NDArray[np.float32]) -> Iterator[Tensor]:
    """Yield each row [rank, width] as whole numbers from -127 to 127; the scales go into
    `row_scale`."""
    first = 0
    for factor in factors:
        rows = factor.float()
        scale = rows.abs().amax(dim=1) / 127
        row_scale[first : first + len(rows)] = scale.numpy()
        first += len(rows)
        yield torch.round(rows / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None])
