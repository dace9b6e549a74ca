"""Products that are whole going forward, and go back for few tokens: those of large gradients.

The gradient that reaches a context token is very unlike from token to token: in SmolLM2-135M an
eighth of them carries nine tenths of its square in the upper layers and two thirds in the lower.
The others' part of the products of the backward pass can be left out, and what the model computes,
and so what it learns from, stays exact.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.sparsity.frozen_linear import FrozenLinear
from gossamer.sparsity.tokens import TokenSplit, product


def tokens_back(split: TokenSplit, back: float) -> int:
    """The number of sparse tokens that keep their way back where a share `back` of them loses it;
    one at least."""
    return max(1, round(split.context * (1 - back)))


def rows_back(sparse: Tensor, split: TokenSplit, back: float) -> Tensor | None:
    """Which of the gradients `sparse` [n, d] of the sparse tokens go on; None: all of them."""
    count = tokens_back(split, back)
    if not back or count >= sparse.shape[0]:
        return None
    return _lengths(sparse).topk(count, sorted=False).indices


def put_back(values: Tensor, few: Tensor | None, rows: int) -> Tensor:
    """Put `values` [k, d] into the rows `few` [k] of zeros [rows, d]; None: they are all rows."""
    if few is None:
        return values
    return values.new_zeros(rows, values.shape[1]).index_copy_(0, few, values)


def _chosen(grad: Tensor, split: TokenSplit, back: float) -> Tensor | None:
    """The rows of `grad` [batch * length, d] that go on, all dense ones among them; None: all."""
    count = tokens_back(split, back) + split.dense.numel()
    if not back or count >= grad.shape[0]:
        return None
    lengths = _lengths(grad).index_fill_(0, split.dense, torch.inf)
    return lengths.topk(count, sorted=False).indices


def _lengths(rows: Tensor) -> Tensor:
    """The norm of each of `rows` [n, d] in float32, which squares of float16 would leave."""
    exact = torch.promote_types(rows.dtype, torch.float32)
    return torch.linalg.vector_norm(rows, dim=1, dtype=exact)


def _shaped(rows: Tensor, x: Tensor) -> Tensor:
    """`rows` [batch * length, n] as [batch, length, n], as `x` is; no view in autograd's eyes, so
    that adapters may add to it in place."""
    return torch.ops.aten._unsafe_view(rows, (*x.shape[:-1], rows.shape[-1]))


class FewRowsBack(torch.autograd.Function):
    """A frozen linear layer, whole; its gradient goes on for the dense tokens, and for those of the
    sparse ones whose outputs have the largest gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, linear: FrozenLinear, split: TokenSplit, back: float, dtype: Any
    ) -> Tensor:
        ctx.linear, ctx.split, ctx.back, ctx.dtypes = linear, split, back, (x.dtype, dtype)
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        return _shaped(product(rows, linear.weight(dtype), linear.bias(dtype)), x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input_dtype, dtype = ctx.dtypes
        shape = (*grads[0].shape[:-1], ctx.linear.in_features)
        rows = grads[0].reshape(-1, grads[0].shape[-1]).to(dtype)
        few = _chosen(rows, ctx.split, ctx.back)
        total = rows.shape[0]
        rows = rows if few is None else rows.index_select(0, few)
        out = put_back(torch.mm(rows, ctx.linear.weight(dtype)), few, total)
        return out.view(shape).to(input_dtype), *[None] * 4


class FewRowsBackMlp(torch.autograd.Function):
    """down(SiLU(gate(x)) * up(x)) without adapters, whole; its gradient goes on for the dense
    tokens, and for those of the sparse ones whose outputs have the largest gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate: FrozenLinear,
        up: FrozenLinear,
        down: FrozenLinear,
        split: TokenSplit,
        back: float,
        dtype: Any,
    ) -> Tensor:
        ctx.layers, ctx.split, ctx.back = (gate, up, down), split, back
        ctx.dtypes = x.dtype, dtype
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        g = product(rows, gate.weight(dtype), gate.bias(dtype))
        u = product(rows, up.weight(dtype), up.bias(dtype))
        ctx.save_for_backward(g, u)
        return _shaped(product(F.silu(g).mul_(u), down.weight(dtype), down.bias(dtype)), x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, down = ctx.layers
        input_dtype, dtype = ctx.dtypes
        g, u = ctx.saved_tensors
        rows = grads[0].reshape(-1, grads[0].shape[-1]).to(dtype)
        few = _chosen(rows, ctx.split, ctx.back)
        total = rows.shape[0]
        if few is not None:
            rows, g, u = (each.index_select(0, few) for each in (rows, g, u))
        slope_g, slope_u = gate_slopes(torch.mm(rows, down.weight(dtype)), g, u)
        out = torch.mm(slope_g, gate.weight(dtype)).addmm_(slope_u, up.weight(dtype))
        out = put_back(out, few, total)
        return out.view(*grads[0].shape[:-1], -1).to(input_dtype), *[None] * 6


def gate_slopes(slope: Tensor, g: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """dL/dg and dL/du from dL/dh, h = SiLU(g) * u; `slope` is overwritten."""
    activated = F.silu(g)
    slope_g = torch.ops.aten.silu_backward(slope * u, g)
    return slope_g, slope.mul_(activated)
