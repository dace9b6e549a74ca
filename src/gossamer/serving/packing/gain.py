"""Factors of outputs and inputs as rows in blocks; what DoRA's factors are."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gossamer.adapters.kinds.dora import DoraAdapter
from gossamer.adapters.kinds.ia3 import Ia3Adapter
from gossamer.adapters.kinds.low_rank import Factors
from gossamer.errors import AdapterFormatError, UnsupportedAdapterError
from gossamer.kernels.gain import GainTable
from gossamer.serving.packing.capacity import Cost, PoolSizes, together
from gossamer.serving.packing.low_rank import cost_of_rows, pack_low_rank, table_bytes
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.vectors import Empty, VectorPart, host_empty, join, pack_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class GainPart(VectorPart):
    """Factors of outputs and inputs in host memory."""

    modules: list[int]
    """The module of each vector."""
    is_input: list[bool]
    num_modules: int
    keeps_bias: bool

    @property
    def scaled_inputs(self) -> frozenset[int]:
        """The modules whose inputs are scaled."""
        pairs = zip(self.modules, self.is_input, strict=True)
        return frozenset(module for module, is_input in pairs if is_input)

    def place(self, pool: Tensor, blocks: list[int]) -> GainTable:
        """Copy the factors into `blocks` of the pool's bytes."""
        offsets = np.full(self.num_modules, -1, dtype=np.int64)
        scales_input = np.zeros(self.num_modules, dtype=np.bool_)
        offsets[self.modules] = self.vectors.write(pool, blocks)
        scales_input[self.modules] = self.is_input
        return GainTable(offsets=offsets, scales_input=scales_input, keeps_bias=self.keeps_bias)


def pack_gains(
    outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor], module_ids: Mapping[str, int],
    block_bytes: int, *, keeps_bias: bool, empty: Empty = host_empty,
) -> GainPart:  # fmt: skip
    """Lay out factors by module path; a module is in one of the two."""
    paths = sorted({*outputs, *inputs}, key=module_ids.__getitem__)
    factors = [outputs[p] if p in outputs else inputs[p] for p in paths]
    data, widths = join(factors, empty, aligned=True)
    return GainPart(
        vectors=pack_vectors(data, widths, block_bytes),
        modules=[module_ids[path] for path in paths],
        is_input=[path in inputs for path in paths],
        num_modules=len(module_ids),
        keeps_bias=keeps_bias,
    )


def partial_squares(adapter: DoraAdapter, target: PackTarget) -> Tensor | None:
    """Return this rank's part of the squared lengths of the rows that several ranks share.

    They are those of layers whose inputs are divided, in the order of the adapter's factors; see
    `_base_squares`. None if there are none.
    """
    found = [
        _base_squares(path, factors, target)
        for path, factors in adapter.factors.items()
        if target.slices.of(path).is_partial
    ]
    return torch.cat(found) if found else None


def _base_squares(path: str, factors: Factors, target: PackTarget) -> Tensor:
    """Compute |W_j|^2 + 2 s (W A^T)_j . B_j of each row j, float64: a sum over inputs."""
    linear, part = target.linears[path], target.slices.of(path)
    a, b = factors.a.float()[:, part.inputs], factors.b[part.outputs].double()
    through = linear.product(a, target.layout.dtype).double()  # [rank, h_out]
    return linear.squared_lengths() + 2 * factors.scale * (through.T * b).sum(1)


def dora_gains(adapter: DoraAdapter, target: PackTarget) -> dict[str, Tensor]:
    """Compute g [h_out] by module path: g_j = m_j over the length of row j of W + s B A.

    `dtype` is the number format in which the base layers compute.

    The product is never formed: |W_j + s (B A)_j|^2 = |W_j|^2 + 2 s (W A^T)_j . B_j
    + s^2 B_j (A A^T) B_j^T, where W A^T is what the base layer makes of the rows of A. Of a layer
    whose inputs are divided among ranks, the first two are sums over them.

    Raises:
        AdapterFormatError: a row of W + s B A is zero.
    """
    gains = {}
    shared = target.sums
    for path, factors in adapter.factors.items():
        part = target.slices.of(path)
        a, b = factors.a.double(), factors.b[part.outputs].double()
        if part.is_partial:
            assert shared is not None
            of_base, shared = shared[: len(b)], shared[len(b) :]
        else:
            of_base = _base_squares(path, factors, target)
        squared = of_base + factors.scale**2 * ((b @ (a @ a.T)) * b).sum(1)
        if not bool((squared > 0).all()):
            raise AdapterFormatError(
                f"adapter {adapter.name}: rows of {path} have length 0 with this adapter, which "
                "DoRA cannot scale; train again"
            )
        gains[path] = (adapter.magnitudes[path].double() / squared.sqrt()).to(torch.float32)
    return gains


def pack_dora(adapter: DoraAdapter, target: PackTarget) -> Parts:
    """Lay out low-rank rows, and what they scale outputs by."""
    gains = dora_gains(adapter, target)
    gain = pack_gains(
        gains, {}, target.module_ids, target.block_bytes, keeps_bias=True, empty=target.empty
    )
    return {**pack_low_rank(adapter, target), "gain": gain}


def pack_ia3(adapter: Ia3Adapter, target: PackTarget) -> Parts:
    """Lay out factors of outputs and inputs.

    Raises:
        UnsupportedAdapterError: layers computed together have inputs of their own.
    """
    for path in adapter.inputs:
        if not target.linears[path].is_alone:
            raise UnsupportedAdapterError(
                f"adapter {adapter.name} scales the input of {path}, which is computed "
                "together with layers of the same input; merge it with "
                "`gossamer adapters merge` and serve the result"
            )
    gain = pack_gains(
        adapter.outputs, adapter.inputs, target.module_ids, target.block_bytes, keeps_bias=False,
        empty=target.empty,
    )  # fmt: skip
    return {"gain": gain}


def cost_of_dora(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of low-rank rows and a factor per output of every linear layer."""
    rank, linears = 16, pool.base.shape.linears
    gains = pool.cost_of([(1, h_out) for h_out, _ in linears.values()], aligned=True)
    rows = together(cost_of_rows(pool, rank, linears), gains)
    tables = table_bytes(pool, rank, len(linears))
    return {f"gain: DoRA {rank}, all linear": pool.with_tables(rows, tables)}
