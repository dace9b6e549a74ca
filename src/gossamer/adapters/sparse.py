"""Sparse adapters: a weight change at single entries (SHiRA) or in blocks (SMT)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from gossamer.adapters.base_fit import require_linear, require_same_base
from gossamer.adapters.config import read_raw
from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields
from gossamer.adapters.identity import digest_of
from gossamer.adapters.tensor_names import module_of_key, require_number_format
from gossamer.adapters.weights import read_weights, require_finite
from gossamer.errors import AdapterFormatError, BaseMismatchError

_SHIRA = (".shira_indices", ".shira_weight")
_SMT = (".smt_blocks", ".smt_values")
_SHIRA_FIELDS = {*COMMON, "init_weights", "mask_type", "r", "random_seed"}


@dataclass(frozen=True)
class Entries:
    """A weight change at single entries; entries of the same place add up."""

    rows: Tensor
    """[n] int64, output."""
    columns: Tensor
    """[n] int64, input."""
    values: Tensor
    """[n]"""

    def add_to(self, weight: Tensor) -> None:
        """weight [h_out, h_in] += the change, in place."""
        places = (self.rows.to(weight.device), self.columns.to(weight.device))
        weight.index_put_(places, self.values.to(weight), accumulate=True)

    def end(self) -> tuple[int, int]:
        """Smallest (h_out, h_in) that holds all entries."""
        if not len(self.rows):
            return 0, 0
        return int(self.rows.max()) + 1, int(self.columns.max()) + 1

    def is_negative(self) -> bool:
        """Whether any place is below 0."""
        return len(self.rows) > 0 and int(torch.minimum(self.rows, self.columns).min()) < 0


@dataclass(frozen=True)
class Blocks:
    """A weight change in dense blocks; blocks that overlap add up."""

    places: Tensor
    """[n, 4] int64: first row, first column, height, width."""
    values: Tensor
    """[sum of height * width], each block row by row, in the order of `places`."""

    def add_to(self, weight: Tensor) -> None:
        """weight [h_out, h_in] += the change, in place."""
        low = 0
        for row, column, height, width in self.places.tolist():
            block = self.values[low : low + height * width].view(height, width)
            weight[row : row + height, column : column + width] += block.to(weight)
            low += height * width

    def end(self) -> tuple[int, int]:
        """Smallest (h_out, h_in) that holds all blocks."""
        if not len(self.places):
            return 0, 0
        rows, columns, heights, widths = self.places.unbind(1)
        return int((rows + heights).max()), int((columns + widths).max())

    def is_negative(self) -> bool:
        """Whether any place is below 0."""
        return len(self.places) > 0 and int(self.places.min()) < 0


Delta = Entries | Blocks


@dataclass(frozen=True)
class SparseAdapter:
    """A checked adapter in memory."""

    kind: ClassVar[str] = "sparse"
    max_rank: ClassVar[None] = None
    name: str
    digest: str
    deltas: dict[str, Delta]
    """By module path in the base model."""


def load_shira(
    folder: Path,
    *,
    base_shapes: Mapping[str, tuple[int, int]] | None = None,
    base_fingerprint: str | None = None,
) -> SparseAdapter:
    """Read the SHIRA adapter in `folder` (SHiRA, arXiv:2406.13175) as PEFT writes it.

    Per module `shira_indices` [2, n] (output, input; integers, or floats on Windows) and
    `shira_weight` [n], added to W as they are: PEFT's scale is 1 and not stored.

    Arguments and errors as `load_low_rank`.
    """
    return _load(folder, _SHIRA, _SHIRA_FIELDS, _entries, base_shapes, base_fingerprint)


def load_smt(
    folder: Path,
    *,
    base_shapes: Mapping[str, tuple[int, int]] | None = None,
    base_fingerprint: str | None = None,
) -> SparseAdapter:
    """Read the GOSSAMER_SMT adapter in `folder` (SMT, arXiv:2405.15525).

    Per module `smt_blocks` [n, 4] (first row, first column, height, width in W [h_out, h_in]) and
    `smt_values`, what is added to these blocks, row by row. Arguments and errors as
    `load_low_rank`.
    """
    return _load(folder, _SMT, None, _blocks, base_shapes, base_fingerprint)


def _load(
    folder: Path,
    suffixes: tuple[str, str],
    known: set[str] | None,
    build: Callable[[str, str, Tensor, Tensor], Delta],
    base_shapes: Mapping[str, tuple[int, int]] | None,
    base_fingerprint: str | None,
) -> SparseAdapter:
    raw = read_raw(folder)
    name = folder.name
    # The fields of a type of our own are our own: those of training have no effect.
    refuse_fields(name, raw, REFUSED, known if known is not None else raw)
    weights = read_weights(folder)
    require_same_base(name, weights.base_fingerprint, base_fingerprint)
    require_finite(name, weights)
    found: dict[str, dict[str, Tensor]] = {}
    for key in sorted(weights.tensors):
        module, suffix = module_of_key(name, key, suffixes, "part of a sparse change")
        found.setdefault(module, {})[suffix] = weights.tensors[key]
    deltas = {}
    for module, parts in found.items():
        for suffix in suffixes:
            if suffix not in parts:
                raise AdapterFormatError(f"adapter {name}: {module} has no {suffix[1:]}")
        require_number_format(name, module + suffixes[1], parts[suffixes[1]].dtype)
        delta = build(name, module, parts[suffixes[0]], parts[suffixes[1]])
        _require_inside(name, module, delta, base_shapes)
        deltas[module] = delta
    return SparseAdapter(name, digest_of(raw, weights), deltas)


def _entries(name: str, module: str, indices: Tensor, values: Tensor) -> Entries:
    if values.dim() != 1 or tuple(indices.shape) != (2, len(values)):
        raise AdapterFormatError(
            f"adapter {name}: {module} has {list(values.shape)} values and indices "
            f"{list(indices.shape)}, not [n] and [2, n]"
        )
    places = _whole_numbers(name, module, indices)
    return Entries(places[0].contiguous(), places[1].contiguous(), values)


def _blocks(name: str, module: str, places: Tensor, values: Tensor) -> Blocks:
    if values.dim() != 1 or places.dim() != 2 or places.shape[1] != 4:
        raise AdapterFormatError(
            f"adapter {name}: {module} has blocks {list(places.shape)} and values "
            f"{list(values.shape)}, not [n, 4] and [entries]"
        )
    places = _whole_numbers(name, module, places)
    count = int((places[:, 2] * places[:, 3]).sum())
    if count != len(values) or (len(places) and int(places[:, 2:].min()) < 1):
        raise AdapterFormatError(
            f"adapter {name}: the blocks of {module} hold {count} entries, but there are "
            f"{len(values)} values"
        )
    return Blocks(places, values)


def _whole_numbers(name: str, module: str, tensor: Tensor) -> Tensor:
    whole = tensor.to(torch.int64)
    if tensor.dtype == torch.bool or (tensor.is_floating_point() and (whole != tensor).any()):
        raise AdapterFormatError(f"adapter {name}: the indices of {module} are not whole numbers")
    return whole


def _require_inside(
    name: str, module: str, delta: Delta, base_shapes: Mapping[str, tuple[int, int]] | None
) -> None:
    if delta.is_negative():
        raise AdapterFormatError(f"adapter {name}: {module} has entries below row or column 0")
    if base_shapes is None:
        return
    shape = require_linear(name, module, base_shapes)
    end = delta.end()
    if end[0] > shape[0] or end[1] > shape[1]:
        raise BaseMismatchError(
            f"adapter {name} changes {module} up to {list(end)}, but the base model has "
            f"{list(shape)}; use the base it was trained on"
        )
