"""Settings of the ReFT methods."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import MethodSettings

Count = Annotated[int, Field(ge=0)]


class ReftSettings(MethodSettings):
    """What LoReFT, DiReFT and NodiReFT have in common."""

    default_learning_rate = DefaultRate(
        3e-3,
        9e-4,
        source="sweep on SmolLM2-135M; the paper for LLaMA",
    )

    rank: Annotated[int, Field(ge=1)] = 8
    """Number of directions of the hidden state that an edit may change."""

    layers: list[Count] | None = None
    """Numbers of the decoder blocks whose output is edited, counted from 0; unset: all."""

    first_positions: Count = 7
    """How many tokens at the start of the prompt are edited."""

    last_positions: Count = 7
    """How many tokens at the end of the prompt are edited."""

    tied: bool = True
    """Whether a block has one edit for the first and the last positions together, or, with
    `false`, one for each group at twice the parameters."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of what the edit adds that is set to zero at random while training."""

    start: Literal["random", "identity"] = "identity"
    """With `identity` the tuned model begins exactly as its base; with `random` the first edits are
    random, as published, which took longer to learn on SmolLM2-135M."""


class DireftSettings(ReftSettings):
    """Settings of `direft`."""

    orthogonal: bool = False
    """Whether the projection back keeps orthonormal rows: what the authors' library, not their
    paper, calls DiReFT."""


class LoreftSettings(ReftSettings):
    """Settings of `loreft`."""


class NodireftSettings(ReftSettings):
    """Settings of `nodireft`."""
