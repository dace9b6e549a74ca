"""Products with slices of frozen weights, forward and backward (SparseLoRA, section 3).

The weights are frozen, so nothing but index sets is kept for the backward pass of a linear layer;
slices are gathered again there, which measured about 2 % of the product they save. The MLP keeps
its two inner activations, of the width that is left.

With a share `back` the way back is left out as well, for the sparse tokens of small gradients.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.sparsity.frozen_linear import FrozenLinear
from gossamer.sparsity.products.few_rows import gate_slopes, put_back, rows_back
from gossamer.sparsity.tokens import (
    RowGather,
    TokenSplit,
    join_rows,
    product,
    spread_columns,
    take_rows,
)

Side = Literal["outputs", "inputs"]
"""The channels of a linear layer that an index set names: its outputs or its inputs."""


def compute_dtype(x: Tensor, linear: FrozenLinear) -> torch.dtype:
    """The type to compute in: autocast's where it is on, else the layer's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else linear.dtype


class LinearSlice(torch.autograd.Function):
    """A linear layer whose sparse tokens compute only the outputs `index`, the others being zero;
    or read only the inputs `index`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        linear: FrozenLinear,
        split: TokenSplit,
        side: Side,
        index: Tensor,
        gather: RowGather,
        detach: bool,
        back: float,
    ) -> Tensor:
        dtype = compute_dtype(x, linear)
        ctx.linear, ctx.split, ctx.side, ctx.index, ctx.detach = linear, split, side, index, detach
        ctx.back = back
        ctx.dtypes = x.dtype, dtype
        sparse, dense = (rows.to(dtype) for rows in gather(x, split))
        if side == "outputs":
            part = product(sparse, linear.rows(index, dtype), linear.bias(dtype, index))
            part = spread_columns(part, index, linear.out_features)
        else:
            sparse = sparse.index_select(1, index)
            part = product(sparse, linear.columns(index, dtype), linear.bias(dtype))
        if split.all_sparse:
            return join_rows(part, None, split)
        return join_rows(part, product(dense, linear.weight(dtype), linear.bias(dtype)), split)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        linear, split, index = ctx.linear, ctx.split, ctx.index
        input_dtype, dtype = ctx.dtypes
        sparse, dense = take_rows(grads[0].to(dtype), split)
        few = rows_back(sparse, split, ctx.back)
        rows = sparse if few is None else sparse.index_select(0, few)
        if ctx.detach:
            left = sparse.new_zeros(sparse.shape[0], linear.in_features)
        elif ctx.side == "outputs":
            left = torch.mm(rows.index_select(1, index), linear.rows(index, dtype))
            left = put_back(left, few, sparse.shape[0])
        else:
            left = torch.mm(rows, linear.columns(index, dtype))
            left = put_back(spread_columns(left, index, linear.in_features), few, sparse.shape[0])
        right = None if split.all_sparse else torch.mm(dense, linear.weight(dtype))
        return join_rows(left, right, split).to(input_dtype), *[None] * 7


class GatedMlp(torch.autograd.Function):
    """down(SiLU(gate(x)) * up(x)) without adapters; sparse tokens use the channels `index`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate: FrozenLinear,
        up: FrozenLinear,
        down: FrozenLinear,
        split: TokenSplit,
        index: Tensor,
        back: float,
    ) -> Tensor:
        dtype = compute_dtype(x, gate)
        ctx.layers, ctx.split, ctx.index, ctx.back = (gate, up, down), split, index, back
        ctx.dtypes = x.dtype, dtype
        sparse, dense = (rows.to(dtype) for rows in take_rows(x, split))
        g = product(sparse, gate.rows(index, dtype), gate.bias(dtype, index))
        u = product(sparse, up.rows(index, dtype), up.bias(dtype, index))
        bias = down.bias(dtype)
        part = product(F.silu(g).mul_(u), down.columns(index, dtype), bias)
        if split.all_sparse:
            ctx.save_for_backward(g, u)
            return join_rows(part, None, split)
        g_dense = product(dense, gate.weight(dtype), gate.bias(dtype))
        u_dense = product(dense, up.weight(dtype), up.bias(dtype))
        whole = product(F.silu(g_dense).mul_(u_dense), down.weight(dtype), bias)
        ctx.save_for_backward(g, u, g_dense, u_dense)
        return join_rows(part, whole, split)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, down = ctx.layers
        split, index = ctx.split, ctx.index
        input_dtype, dtype = ctx.dtypes
        sparse, dense = take_rows(grads[0].to(dtype), split)
        g, u, *others = ctx.saved_tensors
        few = rows_back(sparse, split, ctx.back)
        rows = sparse
        if few is not None:
            rows, g, u = (each.index_select(0, few) for each in (sparse, g, u))
        slope_g, slope_u = gate_slopes(torch.mm(rows, down.columns(index, dtype)), g, u)
        left = torch.mm(slope_g, gate.rows(index, dtype))
        left = put_back(left.addmm_(slope_u, up.rows(index, dtype)), few, sparse.shape[0])
        right = None
        if others:
            slope_g, slope_u = gate_slopes(torch.mm(dense, down.weight(dtype)), *others)
            right = torch.mm(slope_g, gate.weight(dtype)).addmm_(slope_u, up.weight(dtype))
        return join_rows(left, right, split).to(input_dtype), *[None] * 6
