"""Settings of `sparse_lora`."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import MethodSettings, PositiveFloat, PositiveInt


class SparseLoraSettings(MethodSettings):
    """Settings of `sparse_lora`."""

    default_learning_rate = DefaultRate(
        3e-3, 2e-4, source="sweep on SmolLM2-135M; that of lora, not swept"
    )

    rank: PositiveInt = 16
    """Width of the two thin matrices."""

    alpha: PositiveFloat = 32.0
    """Strength: the update is scaled by alpha / rank."""

    density: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the entries of each matrix that may change."""

    mask: Literal["gradient", "random"] = "gradient"
    """Which entries may change: those where the gradient over the first batches is largest, or
    some drawn at random."""

    probe_batches: PositiveInt = 8
    """Batches to look at before the first step, where the mask is chosen by gradients."""

    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: all-linear, attention, mlp, or a list of layer names such as
    [q_proj, v_proj]. The output head is never one of them."""

    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the decoder layers to adapt, counted from 0; unset: all."""
