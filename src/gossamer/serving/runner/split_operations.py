"""Low-rank adapters of which the ranks have divided both factors: the ranks meet in the middle."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from torch import Tensor

from gossamer.kernels.split_lora import make_split_lora
from gossamer.serving.packing.shares.low_rank import own_outputs
from gossamer.serving.runner.lowering.threads import AdapterBatch
from gossamer.serving.runner.operations import AdapterOperations
from gossamer.serving.shard import ModuleSlice, Shard


class SplitOperations:
    """See `AdapterOperations`: those of a rank's own adapters, after the divided ones.

    All ranks call it for the same steps. It takes one collective, and none where no adapter of the
    step acts on the group.
    """

    def __init__(
        self, others: AdapterOperations, pool: Tensor, modules: Sequence[int],
        widths: Sequence[int], backend: str, shard: Shard, *, is_partial: bool,
    ) -> None:  # fmt: skip
        """others: all else that adapters do; widths: outputs of each module in y; is_partial:
        whether the group's inputs are divided, so that y is a part of a sum."""
        columns = list(pairwise(accumulate(widths, initial=0)))
        if is_partial:
            # What the rank adds to its share of the outputs is added up with all else.
            part = ModuleSlice(slice(None), slice(None), is_partial=True)
            own = [own_outputs(width, part, shard.part) for width in widths]
            columns = [
                (low + found.start, low + found.stop)
                for (low, _), found in zip(columns, own, strict=True)
            ]
        self._others = others
        self._lora = make_split_lora(pool, modules, columns, backend)
        self._shard = shard
        self._is_partial = is_partial

    def inputs(self, x: Tensor, batch: AdapterBatch) -> Tensor:
        """See `AdapterOperations.inputs`."""
        return self._others.inputs(x, batch)

    def outputs_(self, y: Tensor, x: Tensor, batch: AdapterBatch) -> None:
        """See `AdapterOperations.outputs_`."""
        if batch.split is not None:
            self._add(y, x, batch.split)
        self._others.outputs_(y, x, batch)

    def _add(self, y: Tensor, x: Tensor, batch: Any) -> None:
        v = self._lora.shrink(x, batch)
        if v is None:
            return
        if self._is_partial:
            self._shard.all_reduce(v)
            v = v[None]
        else:
            v = self._shard.all_gather(v)
        self._lora.expand_(y, v, batch)
