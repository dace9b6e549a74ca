"""What adapters do to a group of linear layers, as one object for each backend."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from gossamer.kernels.gain import make_gain
from gossamer.kernels.grouped_lora import make_grouped_lora
from gossamer.kernels.sparse_delta import make_sparse_delta
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
