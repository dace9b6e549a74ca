"""Layers that stand where the model's norms, embedding and output layer stood."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.kernels.trained_parts.shift import add_vectors_
from gossamer.kernels.trained_parts.table_factors import FactorTable, embed_add_, output_add_
from gossamer.kernels.trained_parts.token_rows import embed_, output_
from gossamer.serving.runner.layers import StepContext


class AdaptedNorm(nn.Module):
    """A norm; tokens of adapters that trained it get its output with their own weight and bias.

    A norm's output is linear in its weight, y = w x + b with x the normed input, so that what was
    learnt of w and b is added: y + dw x + db.
    """

    def __init__(
        self, norm: nn.Module, pool: Tensor, context: StepContext, weight: int, bias: int | None
    ) -> None:
        """weight, bias: numbers of its vectors."""
        super().__init__()
        self.norm = norm
        # In a tuple: torch would register it as part of the model.
        self._bare = (_bare(norm),)
        self._pool = pool.view(torch.float32)
        self._context = context
        self._weight, self._bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Norm x [1, T, .., n] over its last dimension."""
        y: Tensor = self.norm(x)
        batch = self._context.batch
        if batch is None or batch.parts is None or (shifts := batch.parts.shifts) is None:
            return y
        has_weight = bool(shifts.used[self._weight])
        has_bias = self._bias is not None and bool(shifts.used[self._bias])
        if has_weight or has_bias:
            whole = y[0].reshape(y.shape[1], -1, y.shape[-1])
            if has_weight:
                normed = self._bare[0](x)[0].reshape(whole.shape)
                add_vectors_(whole, self._pool, self._weight, shifts, normed)
            if has_bias:
                assert self._bias is not None
                add_vectors_(whole, self._pool, self._bias, shifts)
            y = whole.view(y.shape)
        return y


def _bare(norm: nn.Module) -> nn.Module:
    """Return a norm like `norm` that scales by 1 and adds nothing.

    Families keep that weight as 1 or, where 1 is added to it, as 0: which is found out.
    """
    bare = copy.deepcopy(norm)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in bare.named_parameters(recurse=False):
        if name in ("weight", "bias"):
            parameter.data.zero_()
    weight: Any = bare.weight
    x = torch.randn(1, weight.shape[-1], generator=generator).to(weight)
    with torch.no_grad():
        if not bool(bare(x).any()):
            weight.fill_(1.0)
    return bare


class AdaptedEmbedding(nn.Module):
    """An embedding; tokens of adapters that trained rows of it, or a change of all, get theirs."""

    def __init__(self, embedding: Any, pool: Tensor, context: StepContext) -> None:
        super().__init__()
        self.embedding = embedding
        self.weight = embedding.weight
        # Gemma's embeddings are scaled.
        self._scale = getattr(embedding, "embed_scale", 1.0)
        self._pool = pool
        self._context = context

    def forward(self, token_ids: Tensor) -> Tensor:
        """Map token ids [1, T] to [1, T, hidden]."""
        x: Tensor = self.embedding(token_ids)
        batch = self._context.batch
        if batch is not None and batch.parts is not None:
            for first, count, table in batch.parts.embeddings:
                tokens = slice(first, first + count)
                own, ids = x[0, tokens], token_ids[0, tokens]
                if isinstance(table, FactorTable):
                    embed_add_(own, ids, self._pool, table, self._scale)
                else:
                    embed_(own, ids, self._pool, table, self._scale)
        return x


class AdaptedOutput(nn.Module):
    """The output layer; tokens of adapters that trained rows of it, or a change of all, get the
    logits of theirs."""

    def __init__(
        self, output: nn.Module, bias: Tensor | None, pool: Tensor, context: StepContext
    ) -> None:
        super().__init__()
        self.output = output
        self._bias = bias
        self._pool = pool
        self._context = context

    def forward(self, x: Tensor) -> Tensor:
        """Map x [1, rows, hidden] to logits [1, rows, vocabulary]."""
        y: Tensor = self.output(x)
        batch = self._context.batch
        if batch is not None and batch.parts is not None:
            for rows, table in batch.parts.output_rows:
                logits = y[0, rows]
                if isinstance(table, FactorTable):
                    output_add_(logits, x[0, rows], self._pool, table)
                else:
                    output_(logits, x[0, rows], self._pool, table, self._bias)
                y[0, rows] = logits
        return y
