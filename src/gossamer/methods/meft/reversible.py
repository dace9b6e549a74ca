"""Reversible layers as one function of autograd that keeps two streams, whatever the depth."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gossamer.methods.meft.coupling import Coupling, Half
from gossamer.methods.meft.random_state import State, drawing, replay

Weights = Sequence[Sequence[nn.Parameter]]
"""By layer, what learns in it."""
Gradients = list[Tensor | None]


def run_reversibly(
    layers: Sequence[Coupling], weights: Weights, x1: Tensor, x2: Tensor, *, anchor_every: int
) -> tuple[Tensor, Tensor]:
    """Return the streams after all layers, as `run_plainly`, with the same gradients.

    Kept for the backward pass are the streams after the last layer and, with `anchor_every` m > 0,
    before layers m, 2 m, ...; all others are rebuilt by the inverse, from the last layer down, and
    each layer is computed a second time, under the types (autocast) and random numbers of the
    first. `weights` must name every parameter that F and G use and that learns.
    """
    flat = list(dict.fromkeys(weight for layer in weights for weight in layer))
    apply: Any = _Reversible.apply
    result: tuple[Tensor, Tensor] = apply(layers, weights, anchor_every, x1, x2, *flat)
    return result


def anchored(layers: int, anchor_every: int) -> list[int]:
    """Return the numbers of the layers before which the streams are kept."""
    return list(range(anchor_every, layers, anchor_every)) if anchor_every else []


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layers: Sequence[Coupling],
        weights: Weights,
        anchor_every: int,
        x1: Tensor,
        x2: Tensor,
        *flat: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.layers, ctx.weights, ctx.flat = layers, weights, flat
        ctx.anchored = anchored(len(layers), anchor_every)
        ctx.autocast = _present_autocast(x1.device.type)
        ctx.states = []
        anchors: list[Tensor] = []
        with ctx.autocast():
            for index, layer in enumerate(layers):
                if index in ctx.anchored:
                    anchors += [x1, x2]
                x1, x2, states = _forward_layer(layer, x1, x2)
                ctx.states.append(states)
        ctx.save_for_backward(x1, x2, *anchors)
        return x1, x2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d1: Tensor, d2: Tensor) -> tuple[Any, ...]:
        x1, x2, *kept = ctx.saved_tensors
        anchors = dict(zip(ctx.anchored, zip(kept[::2], kept[1::2], strict=True), strict=True))
        sums: dict[Tensor, Tensor] = {}
        with ctx.autocast():
            for index in reversed(range(len(ctx.layers))):
                layer, own = ctx.layers[index], ctx.weights[index]
                x1, x2, d1, d2, found = _backward_layer(
                    layer, ctx.states[index], own, (x1, x2), (d1, d2), anchors.get(index)
                )
                for weight, gradient in zip(own, found, strict=True):
                    if gradient is not None:
                        sums[weight] = sums[weight] + gradient if weight in sums else gradient
        return None, None, None, d1, d2, *(sums.get(weight) for weight in ctx.flat)


def _forward_layer(
    layer: Coupling, x1: Tensor, x2: Tensor
) -> tuple[Tensor, Tensor, tuple[State | None, State | None]]:
    """`Coupling.forward`, and the states of the random generators that F and G began with."""
    change, state_f = drawing(partial(layer.first, x2), x2.device)
    y1 = layer.lam * x1 + change
    change, state_g = drawing(partial(layer.second, y1), y1.device)
    y2 = layer.beta * x2 + change
    return *layer.turn(y1, y2), (state_f, state_g)


def _backward_layer(
    layer: Coupling,
    states: tuple[State | None, State | None],
    weights: Sequence[nn.Parameter],
    streams: tuple[Tensor, Tensor],
    gradients: tuple[Tensor, Tensor],
    anchor: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Gradients]:
    """From the streams after a layer and their gradients to those before it, and the gradients of
    `weights`; `anchor` is the streams before it, where they were kept."""
    y1, y2 = layer.turn(*streams)
    d1, d2 = layer.turn(*gradients)
    change, through, found_g = _again(layer.second, y1, d2, weights, states[1])
    d1 = d1 + through
    x2 = (y2 - change) / layer.beta if anchor is None else anchor[1]
    change, through, found_f = _again(layer.first, x2, d1, weights, states[0])
    x1 = (y1 - change) / layer.lam if anchor is None else anchor[0]
    found = [_sum(a, b) for a, b in zip(found_f, found_g, strict=True)]
    return x1, x2, layer.lam * d1, layer.beta * d2 + through, found


def _again(
    half: Half, x: Tensor, gradient: Tensor, weights: Sequence[nn.Parameter], state: State | None
) -> tuple[Tensor, Tensor, Gradients]:
    """F or G of `x` once more: its value, the gradient of `x` and those of `weights`."""
    x = x.detach().requires_grad_()
    with torch.enable_grad(), replay(state, x.device):
        value = half(x)
    through, *found = _gradients(value, [x, *weights], gradient)
    # A half that does not depend on its input passes nothing back.
    return value.detach(), torch.zeros_like(x) if through is None else through, found


def _gradients(value: Tensor, inputs: Sequence[Tensor], gradient: Tensor) -> Gradients:
    return list(torch.autograd.grad(value, inputs, gradient, allow_unused=True))


def _sum(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    if one is None or two is None:
        return two if one is None else one
    return one + two


def _present_autocast(device_type: str) -> Callable[[], Any]:
    """Make contexts with the autocast of now.

    Without its cache: that may hold weights which were cast where no gradients were wanted.
    """
    return partial(
        torch.autocast,
        device_type,
        enabled=torch.is_autocast_enabled(device_type),
        dtype=torch.get_autocast_dtype(device_type),
        cache_enabled=False,
    )
