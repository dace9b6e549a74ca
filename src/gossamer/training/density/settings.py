"""What a run says about the density of activations."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.settings import Settings


class DensitySettings(Settings):
    """The density of MLP activations: whether it is measured, and how much it is lowered."""

    density_loss: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Weight of a term that lowers the density of MLP activations (DEFT; the paper has 1), beside
    any method but meft. 0: the density is only measured. Unset: neither."""

    density_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-7
    """The square of the size at which an activation counts one half in the density loss; what is
    much larger is hardly pushed."""

    density_of: Literal["gate", "product"] = "gate"
    """What counts as an activation in gated MLPs: the activation function's output, as in the
    paper's code (where it is zero, neither the up nor the down projection needs that channel), or
    its product with the up projection."""

    density_threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """An activation counts as dense above this size. Unset: 0 for ReLU and its like, whose zeros
    are exact, else the root of density_epsilon."""
