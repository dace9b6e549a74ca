"""A low-rank adapter's weights as rows, ready to be copied into blocks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.adapters.low_rank import LowRankAdapter
from gossamer.kernels.grouped_lora import AdapterTable, RowFormat
from gossamer.kernels.transpose import transpose_into
from gossamer.serving.kinds.vectors import Vectors, pack_vectors

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRows:
    """A checked adapter in host memory: for each adapted module the rows of A [rank, h_in], then
    those of B transposed [rank, h_out]; nothing is padded to another rank."""

    vectors: Vectors
    first_row: npt.NDArray[np.int64]
    """[M] of each module's rows."""
    rank: npt.NDArray[np.int32]
    """[M]; 0: not adapted."""
    scale: npt.NDArray[np.float32]
    """[M]"""
    row_scale: npt.NDArray[np.float32]
    """What the elements of each row are multiplied by."""
    format: RowFormat

    @property
    def num_blocks(self) -> int:
        """Blocks that they take."""
        return self.vectors.num_blocks

    @property
    def num_bytes(self) -> int:
        """What they weigh; the unused ends of blocks are not counted."""
        return self.vectors.num_bytes

    def factors(self, module: int) -> tuple[Tensor, Tensor]:
        """A [rank, h_in] and B transposed [rank, h_out] of `module` as float32."""
        first, rank = int(self.first_row[module]), int(self.rank[module])
        return self._factor(first, rank), self._factor(first + rank, rank)

    def _factor(self, first: int, count: int) -> Tensor:
        low, high = self.vectors.bounds[first], self.vectors.bounds[first + count]
        rows = self.vectors.data[low:high].view(count, -1).float()
        return rows * torch.from_numpy(self.row_scale[first : first + count, None])


def pack(
    adapter: LowRankAdapter,
    module_ids: Mapping[str, int],
    block_bytes: int,
    *,
    int8: bool = False,
) -> HostRows:
    """Lay out `adapter` for blocks of `block_bytes`.

    Rows saved as bfloat16 stay so (half the memory and the reading, and exact); others become
    float32. With `int8`, each row is rounded to whole numbers times a scale of its own. Raises
    `KeyError` for a module that is not in `module_ids`.
    """
    row_format = RowFormat.INT8 if int8 else _format_as_saved(adapter)
    paths = sorted(adapter.factors, key=module_ids.__getitem__)
    pairs = [adapter.factors[path] for path in paths]
    modules = [module_ids[path] for path in paths]
    rank = np.zeros(len(module_ids), dtype=np.int32)
    rank[modules] = [pair.rank for pair in pairs]
    scale = np.zeros(len(module_ids), dtype=np.float32)
    scale[modules] = [pair.scale for pair in pairs]
    factors = [factor for pair in pairs for factor in (pair.a, pair.b.T)]
    widths = np.repeat([f.shape[1] for f in factors], [f.shape[0] for f in factors])
    row_scale = np.ones(len(widths), dtype=np.float32)
    if int8:
        factors = list(_quantised(factors, row_scale))
    return HostRows(
        vectors=pack_vectors(_joined(factors, row_format.dtype), widths, block_bytes),
        first_row=2 * (np.cumsum(rank, dtype=np.int64) - rank),
        rank=rank,
        scale=scale,
        row_scale=row_scale,
        format=row_format,
    )


def write_rows(rows: HostRows, pool: Tensor, blocks: Sequence[int]) -> AdapterTable:
    """Copy `rows` into their `blocks` of the pool's bytes; returns the table that finds them."""
    return AdapterTable(
        first_row=rows.first_row,
        rank=rows.rank,
        scale=rows.scale,
        offsets=rows.vectors.write(pool, blocks),
        row_scale=rows.row_scale,
        format=rows.format,
    )


def _format_as_saved(adapter: LowRankAdapter) -> RowFormat:
    half = all(f.a.dtype == f.b.dtype == torch.bfloat16 for f in adapter.factors.values())
    return RowFormat.BFLOAT16 if half else RowFormat.FLOAT32


def _joined(factors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """All rows one behind the other."""
    joined = torch.empty(sum(factor.numel() for factor in factors), dtype=dtype)
    low = 0
    # An adapter is hundreds of small matrices: as numbers of numpy, a third of the time of torch.
    words = _bits(joined)
    for factor in factors:
        high = low + factor.numel()
        if factor.dtype == dtype and factor.is_contiguous():
            words[low:high] = _bits(factor).reshape(-1)
        elif factor.dtype == dtype and factor.T.is_contiguous():
            transpose_into(_bits(factor.T), words[low:high])
        else:
            joined[low:high].view(factor.shape).copy_(factor)
        low = high
    return joined


def _bits(tensor: Tensor) -> npt.NDArray[Any]:
    """As whole numbers: numpy knows no bfloat16."""
    return tensor.view(_WORDS[tensor.element_size()]).numpy()


def _quantised(factors: Sequence[Tensor], row_scale: npt.NDArray[np.float32]) -> Iterator[Tensor]:
    """Each row [rank, width] as whole numbers from -127 to 127; the scales go into `row_scale`."""
    first = 0
    for factor in factors:
        rows = factor.float()
        scale = rows.abs().amax(dim=1) / 127
        row_scale[first : first + len(rows)] = scale.numpy()
        first += len(rows)
        yield torch.round(rows / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None])
