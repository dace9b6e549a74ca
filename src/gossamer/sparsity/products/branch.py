"""The branch of a LoRA layer, added to its base's outputs in place while the base is sliced."""

from typing import Any

import torch
from torch import Tensor, nn

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
