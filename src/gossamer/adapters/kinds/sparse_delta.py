"""Sparse adapters: changes of single weights (SHiRA) or of blocks of them (SMT)."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gossamer.adapters.base_shape import require_linear
from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.layout import module_of_key
from gossamer.adapters.reading.budget import Budget
from gossamer.adapters.reading.limits import MOST_PLACES
from gossamer.adapters.reading.safetensors_header import Header, Place
from gossamer.adapters.source import AdapterSource
from gossamer.adapters.weights import require_number_format
from gossamer.errors import AdapterFormatError, BaseMismatchError


@dataclass(frozen=True)
class Entries:
    """A weight change at single entries; entries of the same place add up."""

    rows: Tensor
    """[n] int64 below 2^31, output."""
    columns: Tensor
    """[n] int64 below 2^31, input."""
    values: Tensor
    """[n]"""

    def add_to(self, weight: Tensor) -> None:
        """Add the change to weight [h_out, h_in], in place."""
        places = (self.rows.to(weight.device), self.columns.to(weight.device))
        weight.index_put_(places, self.values.to(weight), accumulate=True)

    def end(self) -> tuple[int, int]:
        """Return the smallest (h_out, h_in) that holds all entries."""
        if not len(self.rows):
            return 0, 0
        return int(self.rows.max()) + 1, int(self.columns.max()) + 1


@dataclass(frozen=True)
class Blocks:
    """A weight change in dense blocks; blocks that overlap add up."""

    places: Tensor
    """[n, 4] int64: first row, first column, height, width; all below 2^31."""
    values: Tensor
    """[sum of height * width], each block row by row, in the order of `places`."""

    def add_to(self, weight: Tensor) -> None:
        """Add the change to weight [h_out, h_in], in place."""
        low = 0
        for row, column, height, width in self.places.tolist():
            block = self.values[low : low + height * width].view(height, width)
            weight[row : row + height, column : column + width] += block.to(weight)
            low += height * width

    def end(self) -> tuple[int, int]:
        """Return the smallest (h_out, h_in) that holds all blocks."""
        if not len(self.places):
            return 0, 0
        rows, columns, heights, widths = self.places.unbind(1)
        return int((rows + heights).max()), int((columns + widths).max())


Delta = Entries | Blocks


_SHIRA_FIELDS = {*COMMON, "init_weights", "mask_type", "r", "random_seed"}
_INDEX = 4
"""Bytes of a column in the pool."""


@dataclass(frozen=True)
class SparseAdapter(Adapter):
    """A checked sparse adapter in memory."""

    kind: ClassVar[str] = "sparse"
    deltas: dict[str, Delta]
    """By module path in the base model."""

    @property
    def modules(self) -> Collection[str]:
        """Paths of the linear layers that it changes."""
        return self.deltas


@dataclass(frozen=True, slots=True)
class _Layer:
    """The two tensors of a layer's change."""

    places: Place
    values: Place


@dataclass(frozen=True, slots=True)
class _Type:
    """How one type of sparse adapter is stored."""

    suffixes: tuple[str, str]
    """The suffixes of the tensors with places and with values."""
    known: set[str] | None
    """Fields of its config; None: all."""
    judge: Callable[[str, str, _Layer], None]
    """From shapes alone, before anything is read."""
    index_bytes: int
    """That an entry takes in the pool beside its value."""
    build: Callable[[str, str, Tensor, Tensor], Delta]


def load_sparse(source: AdapterSource) -> SparseAdapter:
    """Read and check a SHIRA or GOSSAMER_SMT adapter. Raises as `load_low_rank`.

    SHiRA (arXiv:2406.13175), as PEFT writes it, has per module `shira_indices` [2, n] (output,
    input; integers, or floats on Windows) and `shira_weight` [n], added to W as they are: PEFT's
    scale is 1 and not stored.

    SMT (arXiv:2405.15525) has per module `smt_blocks` [n, 4] (first row, first column, height,
    width in W [h_out, h_in]) and `smt_values`, what is added to these blocks, row by row.
    """
    name, budget, linears = source.name, source.budget, source.linears
    stores = _SHIRA if source.peft_type == "SHIRA" else _SMT
    # The fields of a type of our own are our own: those of training have no effect.
    known = stores.known if stores.known is not None else source.config
    refuse_fields(name, source.config, REFUSED, known)
    with source.open_weights() as stored:
        layers = _layers(name, stored.header, stores.suffixes)
        _judge(source, stores, layers)
        weights = source.read_finite(stored)
    deltas = {}
    for module, layer in layers.items():
        places, values = weights.tensor(layer.places), weights.tensor(layer.values)
        deltas[module] = stores.build(name, module, _places(name, module, places), values)
        if linears is not None:
            _require_inside(name, module, deltas[module], linears)
    blocks = [delta for delta in deltas.values() if isinstance(delta, Blocks)]
    _require_few_rows(name, sum(int(each.places[:, 2].sum()) for each in blocks), budget)
    return SparseAdapter(name, source.digest(weights), deltas)


def merge_sparse(adapter: SparseAdapter, path: str, _layer: nn.Linear, weight: Tensor) -> None:
    """Add the change of the module `path` to its weight, in place."""
    adapter.deltas[path].add_to(weight)


def _judge(source: AdapterSource, stores: _Type, layers: Mapping[str, _Layer]) -> None:
    """Whether the file can be read, from its header alone."""
    name = source.name
    for module, layer in layers.items():
        require_number_format(name, module + stores.suffixes[1], layer.values.dtype)
        stores.judge(name, module, layer)
        if source.linears is not None:
            _require_few(name, module, layer, source.linears)
    if stores is _SMT:
        # Each block has a row at least.
        count = sum(layer.places.shape[0] for layer in layers.values())
        _require_few_rows(name, count, source.budget)
    source.budget.require_room(name, _pool_bytes(layers, stores.index_bytes))


def _layers(name: str, header: Header, suffixes: tuple[str, str]) -> dict[str, _Layer]:
    """What there is of each module, in the order of module paths."""
    found: dict[str, dict[str, Place]] = {}
    for key in sorted(header.places):
        module, suffix = module_of_key(name, key, suffixes, "part of a sparse change")
        found.setdefault(module, {})[suffix] = header.places[key]
    for module, parts in found.items():
        for suffix in suffixes:
            if suffix not in parts:
                raise AdapterFormatError(f"adapter {name}: {module} has no {suffix[1:]}")
    places, values = suffixes
    return {module: _Layer(parts[places], parts[values]) for module, parts in found.items()}


def _pool_bytes(layers: Mapping[str, _Layer], index_bytes: int) -> int:
    half = all(layer.values.dtype == torch.bfloat16 for layer in layers.values())
    entries = sum(layer.values.numel for layer in layers.values())
    return entries * ((2 if half else 4) + index_bytes)


def _require_few(
    name: str, module: str, layer: _Layer, base_shapes: Mapping[str, tuple[int, int]]
) -> None:
    h_out, h_in = require_linear(name, module, base_shapes)
    if layer.values.numel > h_out * h_in:
        raise BaseMismatchError(
            f"adapter {name} changes {layer.values.numel:,} entries of {module}, but the base "
            f"model has {h_out * h_in:,} there; use the base it was trained on"
        )


def _judge_entries(name: str, module: str, layer: _Layer) -> None:
    values, indices = layer.values.shape, layer.places.shape
    if len(values) != 1 or indices != (2, *values):
        raise AdapterFormatError(
            f"adapter {name}: {module} has {list(values)} values and indices {list(indices)}, not "
            "[n] and [2, n]"
        )


def _entries(name: str, module: str, places: Tensor, values: Tensor) -> Entries:
    return Entries(places[0].contiguous(), places[1].contiguous(), values)


def _judge_blocks(name: str, module: str, layer: _Layer) -> None:
    values, blocks = layer.values.shape, layer.places.shape
    if len(values) != 1 or len(blocks) != 2 or blocks[1] != 4:
        raise AdapterFormatError(
            f"adapter {name}: {module} has blocks {list(blocks)} and values {list(values)}, not "
            "[n, 4] and [entries]"
        )


def _blocks(name: str, module: str, places: Tensor, values: Tensor) -> Blocks:
    # In whole numbers of any size: what a file says may exceed 64 bits.
    held = [height * width for height, width in places[:, 2:].tolist()]
    if sum(held) != len(values) or 0 in held:
        raise AdapterFormatError(
            f"adapter {name}: the blocks of {module} hold {sum(held)} entries, but there are "
            f"{len(values)} values"
        )
    return Blocks(places, values)


def _require_few_rows(name: str, rows: int, budget: Budget) -> None:
    most = budget.limits.max_block_rows
    if rows > most:
        raise AdapterFormatError(
            f"adapter {name}: its blocks have {rows:,} rows, more than the {most:,} of "
            "max_block_rows"
        )


def _places(name: str, module: str, tensor: Tensor) -> Tensor:
    """Rows, columns and sizes as they are used: whole numbers from 0 to 2^31 - 1, in 64 bits."""
    whole = tensor.to(torch.int64)
    if tensor.dtype == torch.bool or (tensor.is_floating_point() and (whole != tensor).any()):
        raise AdapterFormatError(f"adapter {name}: the indices of {module} are not whole numbers")
    if not whole.numel():
        return whole
    low, high = (int(end) for end in torch.aminmax(whole))
    if low < 0:
        raise AdapterFormatError(f"adapter {name}: {module} has entries below row or column 0")
    if high >= MOST_PLACES:
        raise AdapterFormatError(
            f"adapter {name}: {module} has a place of {high}; rows, columns and sizes must be "
            "below 2^31"
        )
    return whole


def _require_inside(
    name: str, module: str, delta: Delta, base_shapes: Mapping[str, tuple[int, int]]
) -> None:
    shape = require_linear(name, module, base_shapes)
    end = delta.end()
    if end[0] > shape[0] or end[1] > shape[1]:
        raise BaseMismatchError(
            f"adapter {name} changes {module} up to {list(end)}, but the base model has "
            f"{list(shape)}; use the base it was trained on"
        )


_SHIRA = _Type(
    suffixes=(".shira_indices", ".shira_weight"),
    known=_SHIRA_FIELDS,
    judge=_judge_entries,
    index_bytes=_INDEX,
    build=_entries,
)
_SMT = _Type(
    suffixes=(".smt_blocks", ".smt_values"),
    known=None,
    judge=_judge_blocks,
    index_bytes=0,
    build=_blocks,
)
