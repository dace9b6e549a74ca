"""Products with a matrix of which few entries are not zero, forward and backward.

Shape suffixes: t tokens, o outputs, i inputs, n entries, r rank.
Only entries are computed: of a change D [o, i] with n entries, x D^T and g D cost n per token, and
so does the gradient of D's values, the product g^T x at the places of the entries. Measured with
512 tokens, 1536 x 576 and 1 % of the entries, one core, float32: x D^T and the gradient of the
values take less than 2 ms each, a dense product of these sizes 23 ms.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import AdapterFormatError


class Pattern:
    """Where the entries of a matrix [o, i] lie, by rows and by columns."""

    def __init__(self, index: Tensor, shape: tuple[int, int]) -> None:
        """`index` [2, n]: rows and columns, sorted row by row, none twice.

        Raises `AdapterFormatError` where it is not, or reaches beyond `shape`.
        """
        rows, columns = index.to(torch.int64)
        flat = rows * shape[1] + columns
        outside = (index < 0).any() or (rows >= shape[0]).any() or (columns >= shape[1]).any()
        if outside or (flat[1:] <= flat[:-1]).any():
            raise AdapterFormatError(
                f"entries of a {shape[0]} x {shape[1]} matrix are not sorted row by row, or lie "
                "outside of it"
            )
        self.shape = shape
        # Where `index` is int32, as in layers, these are views: 8 bytes per entry are added below.
        self.rows, self.columns = index.to(torch.int32)
        self._row_starts = _starts(rows, shape[0])
        self._column_starts = _starts(columns, shape[1])
        self._order = torch.argsort(columns * shape[0] + rows).to(torch.int32)
        self._rows_by_column = self.rows[self._order]

    def matrix(self, values_n: Tensor) -> Tensor:
        """Return the matrix [o, i] with those values in torch's sparse format."""
        return torch.sparse_csr_tensor(self._row_starts, self.columns, values_n, self.shape)

    def transposed(self, values_n: Tensor) -> Tensor:
        """Return the transpose [i, o] in torch's sparse format."""
        return torch.sparse_csr_tensor(
            self._column_starts, self._rows_by_column, values_n[self._order], self.shape[::-1]
        )

    def sample(self, left_ot: Tensor, right_ti: Tensor) -> Tensor:
        """Compute the entries [n] of the product left right, and no others."""
        zeros = self.matrix(left_ot.new_zeros(len(self.rows)))
        return torch.sparse.sampled_addmm(zeros, left_ot, right_ti).values()

    def scatter(self, values_n: Tensor) -> Tensor:
        """Return the dense matrix [o, i]."""
        dense = values_n.new_zeros(self.shape)
        dense[self.rows, self.columns] = values_n
        return dense


class _EntryProduct(torch.autograd.Function):
    """y = x D^T."""

    @staticmethod
    def forward(ctx: Any, x_ti: Tensor, values_n: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(x_ti if values_n.requires_grad else None, values_n)
        ctx.pattern = pattern
        # Whole rows again, for all that comes after: adding a transposed view is slow.
        return (pattern.matrix(values_n) @ x_ti.t()).t().contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g_to,) = gradients
        x_ti, values_n = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        dx_ti = dvalues_n = None
        # Some call `backward` inside of autocast, which would round; these types are settled.
        with torch.autocast(g_to.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                dx_ti = (pattern.transposed(values_n) @ g_to.t()).t().contiguous()
            if ctx.needs_input_grad[1]:
                dvalues_n = pattern.sample(g_to.t(), x_ti)
        return dx_ti, dvalues_n, None


class _SampledLowRank(torch.autograd.Function):
    """v = (B A) at the entries; neither B A nor its gradient is ever whole."""

    @staticmethod
    def forward(ctx: Any, a_ri: Tensor, b_or: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(a_ri, b_or)
        ctx.pattern = pattern
        return pattern.sample(b_or, a_ri)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dvalues_n,) = gradients
        a_ri, b_or = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        da_ri = db_or = None
        with torch.autocast(dvalues_n.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                da_ri = (pattern.transposed(dvalues_n) @ b_or).t()
            if ctx.needs_input_grad[1]:
                db_or = pattern.matrix(dvalues_n) @ a_ri.t()
        return da_ri, db_or, None


def entry_linear(x: Tensor, values_n: Tensor, pattern: Pattern) -> Tensor:
    """Compute x D^T for x [..., i], in x's type; D has `values_n` where `pattern` says.

    Computed in the type of the values, which learn in float32 whatever the model computes in; of
    values in half precision, for which torch has no such products on a CPU, in float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        values_n = _at_least_float32(values_n)
        flat = x.reshape(-1, x.shape[-1]).to(values_n.dtype)
        y_to: Tensor = _EntryProduct.apply(flat, values_n, pattern)  # type: ignore[no-untyped-call]
        return y_to.reshape(*x.shape[:-1], pattern.shape[0]).to(x.dtype)


def sampled_low_rank(a_ri: Tensor, b_or: Tensor, pattern: Pattern) -> Tensor:
    """Compute entries [n] of B A, in float32 where the factors are in half precision."""
    a_ri, b_or = _at_least_float32(a_ri), _at_least_float32(b_or)
    with torch.autocast(a_ri.device.type, enabled=False):
        values: Tensor = _SampledLowRank.apply(a_ri, b_or, pattern)  # type: ignore[no-untyped-call]
        return values


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() < 4 else tensor


def _starts(sorted_or_not: Tensor, count: int) -> Tensor:
    """Where each row (or column) begins in a list sorted by it: int32 [count + 1]."""
    sizes = torch.bincount(sorted_or_not, minlength=count)
    zero = sizes.new_zeros(1)
    return torch.cat([zero, sizes.cumsum(0)]).to(torch.int32)


def _warn_now() -> None:
    # torch says once per process that its sparse format is young; no user of a method needs that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1))


_warn_now()
