"""What adapters do to a group of linear layers, as one object for each backend."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from torch import Tensor

from gossamer.kernels.gain import make_gain
from gossamer.kernels.grouped_lora import RowFormat, make_grouped_lora
from gossamer.kernels.scratch import ScratchMemory
from gossamer.kernels.sparse_delta import make_sparse_delta
from gossamer.serving.packing.rows import KEPT
from gossamer.serving.runner.lowering.programs import ProgramBatch
from gossamer.serving.runner.lowering.threads import AdapterBatch


class AdapterOperations(Protocol):
    """All that adapters can do to modules that read the same input.

    `batch` is what the lowering of the same backend has made of the step.
    """

    def inputs(self, x: Tensor, batch: Any) -> Tensor:
        """Return x [T, h_in] as the base product and the adapters read it: x, or a new tensor."""

    def outputs_(self, y: Tensor, x: Tensor, batch: Any) -> None:
        """Change y [T, sum of widths], the base product with bias, by what adapters make of x."""


class SeparateOperations:
    """See `AdapterOperations`: one after the other, each where the step needs it."""

    def __init__(
        self, pool: Tensor, modules: Sequence[int], widths: Sequence[int], bias: Tensor | None,
        backend: str,
    ) -> None:  # fmt: skip
        """See `make_grouped_lora` and `make_gain`."""
        self._lora = make_grouped_lora(pool, modules, widths, backend)
        self._gain = make_gain(pool, modules, widths, bias, backend)
        self._sparse = make_sparse_delta(pool, modules, widths, backend)

    def inputs(self, x: Tensor, batch: AdapterBatch) -> Tensor:
        """See `AdapterOperations.inputs`."""
        return x if batch.gain is None else self._gain.scaled_inputs(x, batch.gain)

    def outputs_(self, y: Tensor, x: Tensor, batch: AdapterBatch) -> None:
        """See `AdapterOperations.outputs_`."""
        if batch.lora is not None:
            self._lora.add_(y, x, batch.lora)
        if batch.sparse is not None:
            self._sparse.add_(y, x, batch.sparse)
        if batch.gain is not None:
            self._gain.scale_outputs_(y, batch.gain)


class ProgramOperations:
    """See `AdapterOperations`: Triton's kernels, for which tables lie in the adapters' blocks."""

    def __init__(
        self, pool: Tensor, modules: Sequence[int], widths: Sequence[int], h_in: int,
        bias: Tensor | None, scratch: ScratchMemory, formats: Collection[RowFormat],
    ) -> None:  # fmt: skip
        """modules: their ids; widths: h_out of each; scratch: for all groups of a model; formats:
        those of low-rank rows that may be resident."""
        # Imported late: Triton is not where there is no GPU.
        from gossamer.kernels.gain.triton_kernels import TritonInputGain
        from gossamer.kernels.grouped_lora.triton_kernels import TritonGroupedLora
        from gossamer.kernels.sparse_delta.triton_kernels import TritonSparseDelta

        self._lora = TritonGroupedLora(
            pool, modules, widths, h_in, scratch, bias=bias, formats=formats
        )
        self._sparse = TritonSparseDelta(pool, modules, widths)
        self._gain = TritonInputGain(pool, modules[0]) if len(modules) == 1 else None

    def inputs(self, x: Tensor, batch: ProgramBatch) -> Tensor:
        """See `AdapterOperations.inputs`."""
        # Also where the adapters scale other modules' inputs alone: which they do is no part of a
        # step's key, and the kernel looks into the table.
        if batch.token_table is None or self._gain is None:
            return x
        return self._gain.scaled_inputs(x, batch.token_table)

    def outputs_(self, y: Tensor, x: Tensor, batch: ProgramBatch) -> None:
        """See `AdapterOperations.outputs_`."""
        # The last pass of the low-rank kernels scales all of y by the gains of outputs.
        if batch.sparse is not None:
            self._sparse.add_(y, x, batch.sparse)
        if batch.lora is not None:
            self._lora.add_(y, x, batch.lora)


MakeOperations = Callable[[Sequence[int], Sequence[int], int, "Tensor | None"], AdapterOperations]
"""Makes the operations of a group from its modules' ids and widths, h_in, and their bias."""


def operations_of(pool: Tensor, backend: str, rows: RowFormat | None) -> MakeOperations:
    """Return what makes the operations of `backend` over `pool`, the bytes of the block pool.

    rows: the format of all low-rank rows, for which kernels are then compiled; None: each adapter
    has its own.
    """
    if backend == "triton":
        scratch = ScratchMemory(pool.device)
        formats = KEPT if rows is None else (rows,)
        return lambda modules, widths, h_in, bias: ProgramOperations(
            pool, modules, widths, h_in, bias, scratch, formats
        )
    return lambda modules, widths, h_in, bias: SeparateOperations(
        pool, modules, widths, bias, backend
    )
