"""Our layers that stand in a transformers model: linear with adapters, gated MLP, norm."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.kernels.dense_linear import DenseLinear, make_dense_linear
from gossamer.kernels.gated_activation import make_gated_activation
from gossamer.kernels.paged_attention import PagedAttention
from gossamer.serving.runner.lowering.step import StepBatch
from gossamer.serving.runner.operations import AdapterOperations
from gossamer.serving.runner.trained_parts.linear import LinearParts

# Root mean square norms that are weight * x / sqrt(mean(x^2) + eps), which torch has as one call.
_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SmolLM3RMSNorm")


@dataclass(slots=True)
class StepContext:
    """The state of a step that the layers of a model look at."""

    batch: StepBatch | None = None
    attention: PagedAttention | None = None
    seen: set[str] | None = None
    """Collects what layers tell attention beside queries, keys and values, while it is a set."""
    calls: list[tuple["FusedLinear", int]] | None = None
    """Collects the calls of linear layers and their numbers of tokens, while it is a list."""


class FusedLinear(nn.Module):
    """Sibling layers as one dense product, with the adapters' part added; called by the first."""

    def __init__(
        self,
        dense: DenseLinear,
        operations: AdapterOperations,
        context: StepContext,
        reduce: Callable[[Tensor], None] | None = None,
        parts: LinearParts | None = None,
    ) -> None:
        """`reduce` adds up what all ranks have computed, in place, where each has a part of it;
        `parts` adds what adapters have beside the operations."""
        super().__init__()
        self._parts = parts
        self._reduce = reduce
        self._dense = dense
        self._operations = operations
        self._context = context
        self._pending: list[Tensor] = []
        self._input: Tensor | None = None

    @property
    def dense(self) -> DenseLinear:
        """Return the base product."""
        return self._dense

    def forward(self, x: Tensor) -> Tensor:
        """The first sibling's part of x [1, T, h_in]; the others' parts are kept for them."""
        y = self.joint(x)
        if len(self._dense.widths) == 1:
            return y
        first, *others = torch.split(y, self._dense.widths, dim=-1)
        self._pending, self._input = others, x
        return first

    def joint(self, x: Tensor) -> Tensor:
        """All siblings' parts of x [1, T, h_in] or [T, h_in], side by side."""
        batch = self._context.batch
        if self._context.calls is not None:
            self._context.calls.append((self, x.shape[:-1].numel()))
        if batch is None or batch.adapters is None:
            plain: Tensor = self._weights(batch)(x)
            return self._whole(plain, batch)
        # Some families flatten tokens before an MLP.
        tokens = x[0] if x.dim() == 3 else x
        read = self._operations.inputs(tokens, batch.adapters)
        # Each view costs microseconds in each layer, and most steps scale no inputs.
        y: Tensor = self._weights(batch)(x if read is tokens else read.view(x.shape))
        self._operations.outputs_(y[0] if y.dim() == 3 else y, read, batch.adapters)
        return self._whole(y, batch)

    def _whole(self, y: Tensor, batch: StepBatch | None) -> Tensor:
        # All that adapters do to outputs is linear in them, so it may be done to parts of a sum.
        if self._reduce is not None:
            self._reduce(y)
        if batch is not None and batch.parts is not None and self._parts is not None:
            self._parts.add_(y[0] if y.dim() == 3 else y, batch.parts)
        return y

    def _weights(self, batch: StepBatch | None) -> DenseLinear:
        """The weights of the layer itself, or those that the step has in its place."""
        return self._dense if batch is None else batch.merged.get(self._dense, self._dense)

    def take(self, index: int, x: Tensor) -> Tensor:
        """The part of sibling `index` (from 1), computed when the first was called with `x`."""
        assert x is self._input, "sibling layers were called with different inputs"
        part = self._pending[index - 1]
        if index == len(self._pending):
            self._pending, self._input = [], None
        return part


class SiblingLinear(nn.Module):
    """A layer that stands where a later sibling stood."""

    def __init__(self, fused: FusedLinear, index: int) -> None:
        super().__init__()
        # In a tuple, so that torch does not register the fused layer a second time.
        self._fused = (fused,)
        self._index = index

    def forward(self, x: Tensor) -> Tensor:
        """This sibling's part of x [1, T, h_in]."""
        return self._fused[0].take(self._index, x)


class PlainLinear(nn.Module):
    """A linear layer that no adapter acts on (the output layer)."""

    def __init__(
        self, linear: nn.Linear, backend: str, gather: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """`gather` puts the outputs of all ranks side by side, where each has some."""
        super().__init__()
        self._gather = gather
        self._dense = make_dense_linear([linear], backend)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [.., h_in] to [.., h_out]."""
        y: Tensor = self._dense(x)
        return y if self._gather is None else self._gather(y)


class FusedGatedMlp(nn.Module):
    """The MLP down(silu(gate(x)) * up(x)) with the gate in one pass."""

    def __init__(self, gate_up: FusedLinear, down: FusedLinear, backend: str) -> None:
        super().__init__()
        self._gate_up = gate_up
        self._down = down
        self._silu_and_multiply = make_gated_activation(backend)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [1, T, hidden] to [1, T, hidden]."""
        down: Tensor = self._down(self._silu_and_multiply(self._gate_up.joint(x)))
        return down


def fuse_layers(model: Any, backend: str) -> None:
    """Replace what is one call of ours or torch's but several in the model's code.

    Same arithmetic; per layer and step this saves a dozen small operations, whose calls are a tenth
    of the time of a small model's decoding step.
    """
    for path, module in list(model.named_modules()):
        children = dict(module.named_children())
        if set(children) == {"gate_proj", "up_proj", "down_proj", "act_fn"} and _is_silu(children):
            mlp = FusedGatedMlp(module.gate_proj, module.down_proj, backend)
            model.set_submodule(path, mlp)
        elif type(module).__name__ in _NORMS:
            norm = nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon)
            norm.weight = module.weight
            model.set_submodule(path, norm)


def _is_silu(children: dict[str, nn.Module]) -> bool:
    return type(children["act_fn"]).__name__ in ("SiLU", "SiLUActivation")
