"""Lowers steps for a GPU: work is cut into pieces, each of which one program of a kernel computes.

Steps that decode are padded to a few sizes. All that differs between two of one size is in arrays
at fixed places, so a CUDA graph that was captured for the one computes the other.
"""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gossamer.kernels.attention_work import UNUSED, AttentionArrays, host_arrays
from gossamer.kernels.bundles import Bundles, Grid, make_bundles
from gossamer.kernels.paged_attention import AttentionBatch
from gossamer.kernels.runs import Run
from gossamer.serving.device.device import Device
from gossamer.serving.runner.lowering.adapters import AdapterBatchBuilder, join_runs
from gossamer.serving.runner.lowering.device_arrays import DeviceArrays
from gossamer.serving.runner.lowering.pages import page_lists
from gossamer.serving.runner.lowering.parts import Part
from gossamer.serving.runner.lowering.step import HostStep, StepBatch, sampled

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Tokens to which steps that decode are padded; a graph is captured for each that is met."""

_WIDTH = 16
"""Blocks of a sequence for which padded steps have room at least."""
_ENTRIES = 2
"""Entries of a padded step for each token: blends of more adapters than that take no graph."""
_SHORT, _LONG = 8, 64
"""The most tokens of a bundle where runs are short, and where they are long."""

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramBatch:
    """What adapters do to linear layers."""

    lora: Bundles | None
    """Low-rank rows and gains of outputs; None where no token meets any."""
    sparse: Bundles | None
    token_table: Tensor | None
    """Shape [T] or more, int64: where the table of the adapter that scales a token's inputs begins
    in the pool, in bytes; -1: none does. None where that is so for all."""


@dataclass(frozen=True, slots=True)
class _AdapterWork:
    """What `parts` meet, before it is padded."""

    parts: list[Part]
    lora: list[Run]
    sparse: list[Run]
    scales_inputs: bool

    @property
    def kinds(self) -> Hashable:
        """The kernels that are launched for it."""
        return bool(self.lora), bool(self.sparse), self.scales_inputs


class ProgramLowering:
    """See `Lowering`: arrays on `device`, padded for graphs where steps decode."""

    def __init__(self, device: Device, *, block_tokens: int, takes_pages: bool = False) -> None:
        """`takes_pages`: attention takes sequences as a whole wherever it can."""
        self._device = device
        self._block_tokens = block_tokens
        self._takes_pages = takes_pages
        self._arrays = DeviceArrays(device)
        self._adapters = AdapterBatchBuilder(_adapter_work, device.torch_device)
        self._kept: tuple[_AdapterWork, int | None, dict[str, Bundles], dict[str, Array]] | None
        self._kept = None
        """What was made last of the adapters' work, and for how many tokens."""

    def lower(self, step: HostStep) -> StepBatch:
        """See `Lowering.lower`."""
        work, edits, parts = self._adapters.build(step.chunks, step.starts[:-1], step.met)
        size = _size(step) if edits is None and parts is None else None
        if size is not None and len(work.lora) + len(work.sparse) > _ENTRIES * size:
            size = None
        pages = page_lists(step, self._block_tokens, size) if self._takes_pages else None
        attention = host_arrays(self._attention(step, in_pieces=pages is None))
        splits = width = 0
        if size is not None:
            splits = _grown(size, 2, len(attention["split_token"]))
            width = _grown(_WIDTH, 4, attention["block_tables"].shape[1])
        room = len(pages.pages) if pages is not None else None
        key = None if size is None else (size, splits, width, room, work.kinds)
        tokens = size or len(step.token_ids)
        arrays: dict[str, Array] = {
            "token_ids": _padded(np.array(step.token_ids, dtype=np.int64), tokens),
            "input_positions": _padded(step.positions, tokens),
            "logit_rows": _padded(
                np.array([step.starts[i + 1] - 1 for i in step.due], dtype=np.int64), size or 0
            ),
        }
        if step.scored:
            arrays["scored_rows"] = np.array(step.scored_rows, dtype=np.int64)
        for name, array in attention.items():
            if name == "block_tables":
                arrays[name] = _padded_table(array, size or len(array), width or array.shape[1])
            else:
                lengths = {"split": splits, "chunk": 0}
                length = lengths.get(name.split("_")[0], size or 0)
                arrays[name] = _padded(array, length, UNUSED.get(name, 0))
        if pages is not None:
            arrays["pages"] = pages.pages
        if self._kept is None or self._kept[0] is not work or self._kept[1] != size:
            self._kept = (work, size, *_adapter_arrays(work, size, tokens))
        bundles, adapter_arrays = self._kept[2:]
        arrays |= adapter_arrays
        there = self._arrays.put(arrays, key)
        return StepBatch(
            token_ids=there["token_ids"][None],
            positions=there["input_positions"][None],
            virtual=step.virtual,
            attention=AttentionArrays(
                **{name: there[name] for name in attention},
                pages=pages.placed(self._device, there["pages"]) if pages is not None else None,
            ),
            adapters=_batch(work, bundles, there),
            edits=edits,
            parts=None if parts is None else parts.at([step.starts[i + 1] - 1 for i in step.due]),
            sampled=sampled(step),
            logit_rows=there["logit_rows"],
            scored=step.scored,
            scored_rows=there.get("scored_rows"),
            merged=step.merged,
            key=key,
        )

    def _attention(self, step: HostStep, *, in_pieces: bool) -> AttentionBatch:
        """Tokens that come alone are computed so; all others in chunks.

        Where sequences are taken as a whole, no pieces are named, nor the blocks that they read.
        """
        starts, counts = step.starts, step.counts if in_pieces else []
        column, index = np.divmod(step.places, self._block_tokens)
        return AttentionBatch(
            positions=step.places,
            sequence_start=step.sequence_start,
            token_sequence=step.token_sequence,
            token_block=step.block_tables[step.token_sequence, column],
            token_index=index,
            block_tables=step.block_tables if in_pieces else step.block_tables[:, :0],
            short_tokens=np.array(
                [starts[i] for i, count in enumerate(counts) if count == 1], dtype=np.int32
            ),
            short_bounds=np.zeros(0, dtype=np.int32),
            long_chunks=tuple((starts[i], count, i) for i, count in enumerate(counts) if count > 1),
        )


def _size(step: HostStep) -> int | None:
    """The number of tokens to which a step is padded; None if it is computed as it is."""
    is_decode = step.virtual is None and len(step.due) == len(step.token_ids)
    if not is_decode or step.merged or len(step.token_ids) > SIZES[-1]:
        return None
    return next(size for size in SIZES if size >= len(step.token_ids))


def _grown(least: int, factor: int, needed: int) -> int:
    """`least`, multiplied by `factor` until it is at least `needed`: few different numbers."""
    while least < needed:
        least *= factor
    return least


def _adapter_work(parts: list[Part]) -> _AdapterWork:
    """The runs of both operations; a run's slot is its adapter's place in the pool."""

    def runs(field: str) -> list[Run]:
        met = [
            [
                (place, weight)
                for resident, weight in residents
                if resident.tables is not None and (place := getattr(resident.tables, field)) >= 0
            ]
            for _, _, residents in parts
        ]
        return join_runs(parts, met) if any(met) else []

    scales = any(
        resident.tables is not None and bool(resident.tables.scaled_inputs)
        for _, _, residents in parts
        for resident, _ in residents
    )
    return _AdapterWork(parts, runs("lora"), runs("sparse"), scales)


def _adapter_arrays(
    work: _AdapterWork, size: int | None, tokens: int
) -> tuple[dict[str, Bundles], dict[str, Array]]:
    """The bundles of each operation, and all arrays that say what adapters do."""
    bundles = {
        name: _bundles(runs, work.parts, name, size)
        for name, runs in (("lora", work.lora), ("sparse", work.sparse))
        if runs
    }
    arrays = {
        f"{name}_{field}": array
        for name, made in bundles.items()
        for field, array in _fields(made).items()
    }
    if work.scales_inputs:
        arrays["token_table"] = _token_table(work, tokens)
    return bundles, arrays


def _bundles(runs: list[Run], parts: list[Part], field: str, size: int | None) -> Bundles:
    """Cut `runs`, whose slots are places of tables."""
    costs = {
        getattr(resident.tables, field): resident.tables.cost
        for _, _, residents in parts
        for resident, _ in residents
        if resident.tables is not None
    }
    numbers = {place: number for number, place in enumerate(costs)}
    tokens = _SHORT if max(run.size for run in runs) <= 4 * _SHORT else _LONG
    return make_bundles(
        [Run(run.first, run.size, numbers[run.slot], run.weight) for run in runs],
        list(costs),
        list(costs.values()),
        tokens,
        None if size is None else Grid(size, _ENTRIES * size, _ENTRIES * size),
    )


_FIELDS = ("first", "count", "entry", "entry_table", "entry_weight", "entry_row")


def _fields(bundles: Bundles) -> dict[str, Array]:
    return {name: getattr(bundles, name).numpy() for name in _FIELDS}


def _token_table(work: _AdapterWork, tokens: int) -> Array:
    table = np.full(tokens, -1, dtype=np.int64)
    for part, start, residents in work.parts:
        for resident, _ in residents:
            if resident.tables is not None and resident.tables.scaled_inputs:
                table[start : start + part.count] = resident.tables.lora
    return table


def _batch(
    work: _AdapterWork, bundles: dict[str, Bundles], there: dict[str, Tensor]
) -> ProgramBatch | None:
    """Return the bundles with their arrays where `there` has them."""
    if not bundles:
        return None
    moved = {
        name: Bundles(
            **{field: there[f"{name}_{field}"] for field in _FIELDS},
            tokens=made.tokens,
            rows=made.rows,
        )
        for name, made in bundles.items()
    }
    return ProgramBatch(
        lora=moved.get("lora"),
        sparse=moved.get("sparse"),
        token_table=there.get("token_table"),
    )


def _padded(array: Array, length: int, unused: int = 0) -> Array:
    """`array`, at the end of which `unused` stands until it has `length` elements."""
    missing = length - len(array)
    return np.append(array, np.full(missing, unused, array.dtype)) if missing > 0 else array


def _padded_table(table: Array, rows: int, columns: int) -> Array:
    padded = np.zeros((rows, columns), dtype=table.dtype)
    padded[: len(table), : table.shape[1]] = table
    return padded
