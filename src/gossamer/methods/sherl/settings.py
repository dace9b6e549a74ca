"""Settings of SHERL."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import MethodSettings, PositiveInt

Count = Annotated[int, Field(ge=0)]


class SherlSettings(MethodSettings):
    """Settings of `sherl`."""

    default_learning_rate = DefaultRate.flat(
        3e-3,
        source="the best of 1e-3, 3e-3 and 1e-2 in runs of 30 steps of 4 rows on SmolLM2-135M, and "
        "that of the authors for T5; not swept on wide models",
    )

    late_layers: Count | None = None
    """How many decoder blocks at the end stay in the backward pass; all before them run without
    one. More learn more, and cost more memory and time. Unset: a quarter of all, rounded up."""

    taps: Annotated[int, Field(ge=2)] = 10
    """How many hidden states the side network reads at most, spread evenly from the embeddings to
    the last early block, both of them included."""

    layers: list[Count] | None = None
    """Numbers of the early decoder blocks whose output is read, counted from 0, instead of `taps`;
    the embeddings and the last early block are always read."""

    reduction: PositiveInt = 4
    """How many times narrower than the model the side network is."""

    form: Literal["gated", "layer_norm", "linear"] = "gated"
    """The adapter of each state that is read: three layers with a gate, as published for T5; one
    layer and a norm, as for BERT; or one layer behind a relu, as for image and text retrieval."""

    skip: Literal["gated", "whole"] = "whole"
    """How the last early state goes on beside the side network: with `gated` through a learnt gate
    that starts closed, as published for text, so the start is far from the base model; with `whole`
    in full, as published for video and text, and the tuned model begins exactly as its base."""
