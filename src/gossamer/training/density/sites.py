"""Finds the activations of a model's MLPs: where to look at them, and whether zeros are exact."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from gossamer.errors import UnsupportedModelError

# The names that transformers' model families give the activation function of an MLP.
_ACTIVATIONS = ("act_fn", "activation_fn", "act", "intermediate_act_fn")
# Of those that multiply its output by another projection: that projection, or one fused with it.
_GATED = ("up_proj", "gate_up_proj", "wi_1")
_DOWN = ("down_proj", "wo")


@dataclass(frozen=True, slots=True)
class Site:
    """One layer's activations: what `module` gives out, or what it takes in."""

    path: str
    module: nn.Module
    is_input: bool
    exact_zeros: bool
    """Whether the activation function gives zeros for negative numbers, as ReLU does."""


def find_sites(model: nn.Module, of: Literal["gate", "product"]) -> list[Site]:
    """The activations of each MLP of `model`, wrapped by adapters or not, in order.

    `of`: in gated MLPs, the output of the activation function, or its product with the other
    projection. Raises `UnsupportedModelError` where there are none, or experts that see their own
    tokens only.
    """
    found = [
        _site(path, owner, name, of)
        for path, owner in _base(model).named_modules()
        for name in _ACTIVATIONS
        if _is_mlp(owner, name)
    ]
    if not found:
        raise UnsupportedModelError(
            f"density_loss: no MLP activations are known in this {type(_base(model)).__name__}; "
            "leave density_loss out"
        )
    return found


def _base(model: Any) -> nn.Module:
    """The base model, so that networks that belong to adapters are not looked into."""
    base: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base


def _is_mlp(owner: nn.Module, name: str) -> bool:
    # Its own module: wrappers pass on the names of what they wrap.
    if not isinstance(owner._modules.get(name), nn.Module):
        return False
    if "experts" in type(owner).__name__.lower():
        raise UnsupportedModelError(
            f"density_loss: the experts of a {type(owner).__name__} see a part of the tokens "
            "each, which is not supported; leave density_loss out"
        )
    return True


def _site(path: str, owner: nn.Module, name: str, of: str) -> Site:
    activation = owner._modules[name]
    assert activation is not None
    if of == "product" and any(part in owner._modules for part in _GATED):
        down = next((part for part in _children(owner, _DOWN)), None)
        if down is None:
            raise UnsupportedModelError(
                f"density_of=product: the gated MLP {path} has no {' or '.join(_DOWN)}; use "
                "density_of=gate"
            )
        return Site(f"{path}.{down[0]}", down[1], True, _gives_zeros(activation))
    return Site(f"{path}.{name}", activation, False, _gives_zeros(activation))


def _children(owner: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    for name in names:
        child = owner._modules.get(name)
        if child is not None:
            yield name, child


def _gives_zeros(activation: nn.Module) -> bool:
    with torch.no_grad():
        return not activation(torch.tensor([-3.0, -1.0, -0.1])).any()
