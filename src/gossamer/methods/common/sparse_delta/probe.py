"""Which entries of a weight matter most: the gradient, summed over some batches.

No gradient of the whole model is ever held: a matrix's own is computed as the backward pass comes
by, added to its sum and dropped. The sums of as many matrices as fit into a budget are kept at a
time; where there are more, the batches are gone through again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import DataError
from gossamer.methods.common.probe_loss import backward, checkpointed
from gossamer.methods.common.ranks import add_over_ranks
from gossamer.methods.common.sparse_delta.mask import as_index, num_entries

BUDGET = 2**30
"""Bytes of gradient sums held at once."""


def largest_entries(
    model: Any,
    layers: Mapping[str, Any],
    batches: Callable[[], Iterable[dict[str, Tensor]]],
    *,
    density: float,
    budget: int = BUDGET,
    checkpointing: bool = False,
) -> dict[str, Tensor]:
    """Find the entries with the largest gradients of each of the linear `layers` of `model`.

    That is |sum over the batches of dloss/dW|, the loss being each batch's mean; of equal ones the
    first. Returns rows and columns int32 [2, n], sorted. `batches` gives the same each time. Works
    on quantised weights too, whose gradient is computed from what goes in and out. With
    `checkpointing` only the inputs of the model's blocks are kept between forward and backward.
    Raises `DataError` if there is no batch.
    """
    chosen: dict[str, Tensor] = {}
    for group in _groups(layers, budget):
        for name, total in _gradient_sums(model, group, batches(), checkpointing).items():
            count = num_entries((total.shape[0], total.shape[1]), density)
            # Stable: of equal gradients the first, on every machine.
            order = torch.sort(total.abs_().flatten(), descending=True, stable=True).indices
            flat = order[:count].sort().values
            chosen[name] = as_index(flat, (total.shape[0], total.shape[1]))
    return chosen


def _groups(layers: Mapping[str, Any], budget: int) -> Iterator[dict[str, Any]]:
    group: dict[str, Any] = {}
    used = 0
    for name, layer in layers.items():
        size = 4 * int(layer.in_features) * int(layer.out_features)
        if group and used + size > budget:
            yield group
            group, used = {}, 0
        group[name] = layer
        used += size
    if group:
        yield group


def _gradient_sums(
    model: Any,
    layers: Mapping[str, Any],
    batches: Iterable[dict[str, Tensor]],
    checkpointing: bool,
) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    learning = [p for p in model.parameters() if p.requires_grad]
    training = model.training
    embeddings = model.get_input_embeddings()
    handles = [layer.register_forward_hook(_adder(sums, name)) for name, layer in layers.items()]
    # With every weight frozen nothing would be differentiated; the input stands in for them.
    handles.append(embeddings.register_forward_hook(lambda m, i, out: out.requires_grad_(True)))
    for parameter in learning:
        parameter.requires_grad_(False)
    model.eval()
    seen = 0
    try:
        with checkpointed(model, checkpointing):
            for batch in batches:
                backward(model, batch)
                seen += 1
    finally:
        for handle in handles:
            handle.remove()
        for parameter in learning:
            parameter.requires_grad_(True)
        model.train(training)
    if not seen:
        raise DataError("no training rows to choose entries by; give data, or mask='random'")
    add_over_ranks(sums.values(), next(model.parameters()).device)
    return sums


def _adder(sums: dict[str, Tensor], name: str) -> Any:
    def add(g_to: Tensor, x_ti: Tensor) -> None:
        product = (g_to.to(x_ti.dtype).t() @ x_ti).float()
        if name in sums:
            sums[name] += product
        else:
            sums[name] = product

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        watched: Any = _Watched.apply
        found: Tensor = watched(out, inputs[0].detach(), add)
        return found

    return hook


class _Watched(torch.autograd.Function):
    """Hands on a layer's output, and tells what comes back with what went in. The latter is saved
    as autograd saves, so that checkpointing need not keep it."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, add: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.add = add
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        grad = grads[0]
        ctx.add(grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1]))
        return grad, None, None
