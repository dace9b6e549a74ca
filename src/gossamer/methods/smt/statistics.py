"""Gradients of chosen matrices summed over batches, one matrix in memory at a time."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.methods.common.probe_loss import backward
from gossamer.methods.common.ranks import add_over_ranks
from gossamer.methods.smt.settings import SmtSettings


class GradientSums:
    """A context in which backward passes add to one float32 sum per layer.

    Weights in floating point learn for the time being, and their gradient is freed as soon as it is
    added; all other weights are frozen. For quantised weights the gradient g^T X is computed from
    the layer's input X and the gradient g of its output. On leaving, all is as before.
    """

    def __init__(self, model: Any, paths: Sequence[str], settings: SmtSettings) -> None:
        self._model = model
        self._layers = {path: model.get_submodule(path) for path in paths}
        self._on_cpu = settings.accumulate_on == "cpu"
        self._sums: dict[str, Tensor] = {}
        self._undo: list[Callable[[], Any]] = []

    def __enter__(self) -> "GradientSums":
        learning = [p for p in self._model.parameters() if p.requires_grad]
        self._model.requires_grad_(False)
        self._undo.append(lambda: [p.requires_grad_(True) for p in learning])
        for path, layer in self._layers.items():
            device = torch.device("cpu") if self._on_cpu else layer.weight.device
            self._sums[path] = torch.zeros(layer.out_features, layer.in_features, device=device)
            if layer.weight.is_floating_point():
                self._watch_weight(path, layer)
            else:
                self._watch_output(path, layer)
        if not any(p.requires_grad for p in self._model.parameters()):
            # Nothing learns, so the embeddings must begin the graph.
            self._model.enable_input_require_grads()
            self._undo.append(self._model.disable_input_require_grads)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Run forward and backward over one batch, the model in the mode it is in."""
        backward(self._model, batch)

    def reduced(self) -> dict[str, Tensor]:
        """Return the sums by path, over all processes that train."""
        add_over_ranks(self._sums.values(), next(self._model.parameters()).device)
        return self._sums

    def _watch_weight(self, path: str, layer: nn.Linear) -> None:
        def add_and_free(weight: Tensor) -> None:
            assert weight.grad is not None
            self._sums[path] += weight.grad.to(self._sums[path])
            weight.grad = None

        weight = layer.weight
        # A gradient that someone else has gathered is not ours to add or to free.
        before = weight.grad
        weight.grad = None
        weight.requires_grad_(True)
        watch: Any = weight.register_post_accumulate_grad_hook
        handle = watch(add_and_free)

        def undo() -> None:
            handle.remove()
            weight.requires_grad_(False)
            weight.grad = before

        self._undo.append(undo)

    def _watch_output(self, path: str, layer: nn.Module) -> None:
        def after_forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if output.requires_grad:
                entered = inputs[0].detach().flatten(0, -2)

                def add(gradient: Tensor) -> None:
                    rows = gradient.flatten(0, -2).float()
                    self._sums[path] += (rows.T @ entered.float()).to(self._sums[path].device)

                output.register_hook(add)  # type: ignore[no-untyped-call]

        self._undo.append(layer.register_forward_hook(after_forward).remove)
