"""Adam for weights of which a step moves few entries, AdamW for all others."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.methods.sparsegrad.autograd import GradientEntries
from gossamer.methods.sparsegrad.layer import SparseGradLinear


class SparseGradAdam(torch.optim.Optimizer):
    """The update of torch's SparseAdam for `SparseGradLinear` layers: moments and weights move only
    where the gradient has an entry, and nothing decays. What else learns in `model` is updated as
    by AdamW. The moments m and v are dense, each of the size of the weight.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        layers = [m for m in model.modules() if isinstance(m, SparseGradLinear)]
        self._layers = {layer.weight: layer for layer in layers}
        markers = {layer.marker for layer in layers}
        rest = [
            p
            for p in model.parameters()
            if p.requires_grad and p not in self._layers and p not in markers
        ]
        groups: list[dict[str, Any]] = [{"params": list(self._layers), "weight_decay": 0.0}]
        if rest:
            groups.append({"params": rest, "weight_decay": weight_decay})
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of the update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                layer = self._layers.get(parameter)
                if layer is not None:
                    entries = layer.gradient()
                    if entries is not None:
                        self._move_entries(parameter, entries, group)
                elif parameter.grad is not None:
                    self._move_all(parameter, group)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for layer in self._layers.values():
            layer.forget_gradient()

    def _moments(self, parameter: Tensor) -> tuple[Tensor, Tensor, int]:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        return state["exp_avg"], state["exp_avg_sq"], state["step"]

    def _move_entries(
        self, weight: Tensor, entries: GradientEntries, group: dict[str, Any]
    ) -> None:
        first, second, step = self._moments(weight)
        (beta1, beta2), places, g = group["betas"], entries.places, entries.values
        m = first.view(-1)[places].lerp(g, 1 - beta1)
        v = second.view(-1)[places].lerp(g.square(), 1 - beta2)
        first.view(-1)[places] = m
        second.view(-1)[places] = v
        size = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        weight.view(-1)[places] -= size * m / (v.sqrt() + group["eps"])

    def _move_all(self, parameter: Tensor, group: dict[str, Any]) -> None:
        first, second, step = self._moments(parameter)
        (beta1, beta2), g = group["betas"], parameter.grad
        assert g is not None
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        first.lerp_(g, 1 - beta1)
        second.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        root = (second / (1 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(first, root, value=-group["lr"] / (1 - beta1**step))
