"""A frozen linear layer plus trainable blocks: only the blocks' gradients are ever computed.

With X [tokens, in] and blocks D_p at (row i, column j): Y = X W^T and, for each block,
Y[:, i] += X[:, j] D_p^T. Backward with g = dL/dY: dL/dX = g W and dL/dX[:, j] += g[:, i] D_p, which
is exact, and dL/dD_p = g[:, i]^T X[:, j]. Of X only the columns that some block reads are kept.

The products run on strided views of Y, g and dL/dX, one call per block. At SmolLM2's shapes on two
cores, gathering rows for one batched product takes the same time and more memory. Writing the
blocks into W before its product is 1 to 19 % faster on the layers that have blocks, some 2 % of a
training step; but it changes the base, which may be shared, tied or quantised, and rounds small
changes to the type of W.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gossamer.methods.smt.blocks import Block


@dataclass(frozen=True)
class BlockPlan:
    """Where the blocks of a layer lie, and which of its input's columns they read."""

    blocks: tuple[Block, ...]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """Ranges of columns (first, end) that blocks read; disjoint, in order."""
        spans: list[tuple[int, int]] = []
        for start, end in sorted({(b.column, b.column + b.width) for b in self.blocks}):
            if spans and start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        return spans

    @property
    def columns(self) -> int:
        """Count the columns kept for each token."""
        return sum(end - start for start, end in self.spans)

    @cached_property
    def packed(self) -> list[int]:
        """Return the first column of each block among the kept ones."""
        return [self._packed(block.column) for block in self.blocks]

    @cached_property
    def offsets(self) -> list[int]:
        """Return the first entry of each block among the values."""
        offsets, total = [], 0
        for block in self.blocks:
            offsets.append(total)
            total += block.size
        return offsets

    def _packed(self, column: int) -> int:
        before = 0
        for start, end in self.spans:
            if start <= column < end:
                return before + column - start
            before += end - start
        raise AssertionError

    def keep(self, x: Tensor) -> Tensor:
        """The columns of `x` [tokens, in] that are read, [tokens, columns], owning their memory."""
        if len(self.spans) == 1:
            start, end = self.spans[0]
            # A view would keep all of x alive.
            return x if end - start == x.shape[1] else x[:, start:end].clone()
        return torch.cat([x[:, start:end] for start, end in self.spans], 1)

    def matrices(self, values: Tensor) -> list[Tensor]:
        """Return views of `values` as one matrix [height, width] per block."""
        return [
            values[o : o + b.size].view(b.height, b.width)
            for b, o in zip(self.blocks, self.offsets, strict=True)
        ]


def make_plan(blocks: Sequence[Sequence[int]]) -> BlockPlan:
    """From rows of (row, column, height, width)."""
    return BlockPlan(tuple(Block(*block) for block in blocks))


def block_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor, plan: BlockPlan
) -> Tensor:
    """X W^T + b plus the blocks. x [..., in], weight [out, in] frozen, bias [out] frozen or None,
    values [weights in blocks]; all of one type except values, which may be finer. -> [..., out]."""
    out: Tensor = _BlockLinear.apply(x, weight, bias, values, plan)  # type: ignore[no-untyped-call]
    return out


def add_blocks(out: Tensor, x: Tensor, values: Tensor, plan: BlockPlan) -> Tensor:
    """`out` [..., out] plus the blocks' part of x [..., in], for an `out` computed by any layer.

    `out` is changed in place. Costs one more pass over x in the backward than `block_linear`.
    """
    x = x.to(out.dtype)
    result: Tensor = _AddBlocks.apply(out, x, values, plan)  # type: ignore[no-untyped-call]
    return result


class _BlockLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor, plan: BlockPlan
    ) -> Tensor:
        # Of the shape of the result: a view of it could not be added to afterwards.
        out = F.linear(x, weight, bias)
        kept = plan.keep(x.reshape(-1, x.shape[-1]))
        _add_products(out.view(-1, out.shape[-1]), kept, values, plan)
        ctx.plan = plan
        ctx.save_for_backward(kept, weight, values)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, values = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])
        into_x = into_values = None
        if ctx.needs_input_grad[0]:
            into_x = _add_input_gradient(g @ weight, g, values, ctx.plan)
            into_x = into_x.view(*gradient.shape[:-1], -1)
        if ctx.needs_input_grad[3]:
            into_values = _values_gradient(g, kept, values, ctx.plan)
        return into_x, None, None, into_values, None


class _AddBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, values: Tensor, plan: BlockPlan) -> Tensor:
        kept = plan.keep(x.reshape(-1, x.shape[-1]))
        _add_products(out.view(-1, out.shape[-1]), kept, values, plan)
        ctx.mark_dirty(out)
        ctx.plan, ctx.shape = plan, x.shape
        ctx.save_for_backward(kept, values)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept, values = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])
        into_x = into_values = None
        if ctx.needs_input_grad[1]:
            into_x = g.new_zeros(g.shape[0], ctx.shape[-1])
            into_x = _add_input_gradient(into_x, g, values, ctx.plan).view(ctx.shape)
        if ctx.needs_input_grad[2]:
            into_values = _values_gradient(g, kept, values, ctx.plan)
        return gradient, into_x, into_values, None


def _add_products(out: Tensor, kept: Tensor, values: Tensor, plan: BlockPlan) -> None:
    """out[:, i] += kept[:, j] D^T for each block."""
    matrices = plan.matrices(values.to(out.dtype))
    for (i, _, height, width), j, matrix in zip(plan.blocks, plan.packed, matrices, strict=True):
        out[:, i : i + height].addmm_(kept[:, j : j + width], matrix.T)


def _add_input_gradient(into_x: Tensor, g: Tensor, values: Tensor, plan: BlockPlan) -> Tensor:
    """into_x[:, j] += g[:, i] D for each block."""
    matrices = plan.matrices(values.to(g.dtype))
    for (i, j, height, width), matrix in zip(plan.blocks, matrices, strict=True):
        into_x[:, j : j + width].addmm_(g[:, i : i + height], matrix)
    return into_x


def _values_gradient(g: Tensor, kept: Tensor, values: Tensor, plan: BlockPlan) -> Tensor:
    """g[:, i]^T kept[:, j] for each block, in the order of the values."""
    result = torch.empty(values.shape, dtype=g.dtype, device=g.device)
    matrices = plan.matrices(result)
    for (i, _, height, width), j, matrix in zip(plan.blocks, plan.packed, matrices, strict=True):
        torch.mm(g[:, i : i + height].T, kept[:, j : j + width], out=matrix)
    return result.to(values.dtype)
