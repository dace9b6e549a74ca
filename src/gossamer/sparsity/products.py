"""Products with slices of frozen weights, forward and backward (SparseLoRA, section 3).

The weights are frozen, so nothing but index sets is kept for the backward pass of a linear layer;
slices are gathered again there, which measured about 2 % of the product they save. The MLP keeps
its two inner activations, of the width that is left.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.sparsity.frozen_linear import FrozenLinear
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
    ) -> Tensor:
        dtype = compute_dtype(x, linear)
        ctx.linear, ctx.split, ctx.side, ctx.index, ctx.detach = linear, split, side, index, detach
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
        if ctx.detach:
            left = sparse.new_zeros(sparse.shape[0], linear.in_features)
        elif ctx.side == "outputs":
            left = torch.mm(sparse.index_select(1, index), linear.rows(index, dtype))
        else:
            left = torch.mm(sparse, linear.columns(index, dtype))
            left = spread_columns(left, index, linear.in_features)
        right = None if split.all_sparse else torch.mm(dense, linear.weight(dtype))
        return join_rows(left, right, split).to(input_dtype), *[None] * 6


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
    ) -> Tensor:
        dtype = compute_dtype(x, gate)
        ctx.layers, ctx.split, ctx.index, ctx.dtypes = (
            (gate, up, down),
            split,
            index,
            (x.dtype, dtype),
        )
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
        slope_g, slope_u = _gate_slopes(torch.mm(sparse, down.columns(index, dtype)), g, u)
        left = torch.mm(slope_g, gate.rows(index, dtype))
        left.addmm_(slope_u, up.rows(index, dtype))
        right = None
        if others:
            slope_g, slope_u = _gate_slopes(torch.mm(dense, down.weight(dtype)), *others)
            right = torch.mm(slope_g, gate.weight(dtype)).addmm_(slope_u, up.weight(dtype))
        return join_rows(left, right, split).to(input_dtype), *[None] * 5


def _gate_slopes(slope: Tensor, g: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """dL/dg and dL/du from dL/dh, h = SiLU(g) * u; `slope` is overwritten."""
    activated = F.silu(g)
    slope_g = torch.ops.aten.silu_backward(slope * u, g)
    return slope_g, slope.mul_(activated)


_PLAIN = {"peft.tuners.lora.layer.Linear", "peft.tuners.lora.bnb.Linear4bit"}


def fits(module: Any, x: Tensor) -> bool:
    """Whether `module` computes base(x) + scaling * x A^T B^T and nothing else, at this moment."""
    # Others' layers may have the same attributes and compute something else.
    if f"{type(module).__module__}.{type(module).__name__}" not in _PLAIN:
        return False
    names = list(module.active_adapters)
    if len(names) != 1 or names[0] not in module.lora_A or names[0] in module.lora_variant:
        return False
    down, up = module.lora_A[names[0]], module.lora_B[names[0]]
    if module.disable_adapters or module.merged or type(down) is not nn.Linear:
        return False
    base = module.base_layer
    if base._backward_hooks or base._backward_pre_hooks or base._forward_hooks:
        # Someone else looks at the base's outputs, and would see them change.
        return False
    if up.bias is not None or not isinstance(module.lora_dropout[names[0]], nn.Identity):
        return False
    return x.dtype == down.weight.dtype and not torch.is_autocast_enabled(x.device.type)


def add_branch(module: Any, x: Tensor, out: Tensor) -> Tensor:
    """Add the outputs of `module`'s adapter to `out`, the base's fresh outputs for `x`."""
    name = module.active_adapters[0]
    down, up = module.lora_A[name].weight, module.lora_B[name].weight
    product: Any = LoraBranch.apply
    return product(out, x, down, up, module.scaling[name])


class LoraBranch(torch.autograd.Function):
    """Adds scaling * x A^T B^T to `out`, in place; A [r, in], B [out, r]."""

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, x: Tensor, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        thin = rows @ down.t()
        ctx.save_for_backward(x, thin, down, up)
        ctx.scaling = scaling
        ctx.mark_dirty(out)
        out.view(-1, out.shape[-1]).addmm_(thin, up.t(), alpha=scaling)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, thin, down, up = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        rows = x.reshape(-1, x.shape[-1])
        slope = (grad @ up).mul_(ctx.scaling)
        grad_x = (slope @ down).view(x.shape) if ctx.needs_input_grad[1] else None
        grad_down = slope.t() @ rows if ctx.needs_input_grad[2] else None
        grad_up = (grad.t() @ thin).mul_(ctx.scaling) if ctx.needs_input_grad[3] else None
        return grads[0], grad_x, grad_down, grad_up, None
