"""Settings of MEFT."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import MethodSettings, PositiveFloat, PositiveInt


class MeftSettings(MethodSettings):
    """Settings of `meft`."""

    default_learning_rate = DefaultRate(
        1e-2,
        8e-4,
        source="sweep on SmolLM2-135M, between the best of two sets of rows; the largest that the "
        "authors tried for BERT on GLUE, at width 8",
    )

    variant: Literal["meft1", "meft2", "meft3"] = "meft1"
    """Which parts of a layer are F and G in y1 = lam x1 + F(x2), y2 = beta x2 + G(y1). `meft1`: the
    whole layer and an adapter; `meft2`: an adapter and the whole layer; `meft3`: attention and
    MLP."""

    width: PositiveInt = 8
    """Width of the bottleneck of each adapter; every reversible layer has two."""

    lam: PositiveFloat | None = None
    """Lambda, the factor of the first stream; unset: 1/8, and 1 in `meft2`. The paper
    has 0.1, but a product with a power of two is exact, and what is rebuilt then too."""

    beta: PositiveFloat | None = None
    """Beta, the factor of the second stream; unset: 1/8, and 1 in `meft1`."""

    residual: Literal["shared", "whole"] = "shared"
    """With `shared` a whole layer brings 1 - lam (or 1 - beta) of its input along, so that the two
    streams together weigh as much as one; with `whole` all of it, as the published equations say,
    and the streams of a model that norms before its sublayers grow with depth."""

    reversible_layers: PositiveInt | None = None
    """How many decoder layers, from the first, are reversible; the rest stays as it is, frozen.
    Unset: all but the last two."""

    anchor_every: Annotated[int, Field(ge=0)] | None = None
    """After how many layers both streams are kept rather than rebuilt, since errors grow by
    1 / (lam beta) with each layer that is rebuilt; 0: never; unset: as many as let them grow by
    20 bits (10, with streams in float32), which is 6 layers for a factor of 1/8."""

    stream_dtype: Literal["float64", "float32"] = "float64"
    """The type of the two streams; the layers compute in the model's own."""

    activation: Literal["relu", "gelu", "silu", "tanh"] = "gelu"
    """The nonlinearity of the adapters."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the bottleneck's values that is set to zero at random while training."""
