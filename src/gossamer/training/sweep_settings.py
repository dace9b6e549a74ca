"""The settings by which a sparsity plan is found, alone, so that help loads nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.sparsity.plan import Compensating
from gossamer.training.data import DataSettings
from gossamer.training.settings import DtypeName, PositiveInt

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class SweepSettings(DataSettings):
    """The settings by which a sparsity plan is found."""

    model: str
    """Base model: an alias such as smollm2-135m, a folder, or a hub id."""

    target: Share | None = None
    """Share of the operations of a run to keep, its dense start included. Refused where the loss
    then rises by more than max_increase. Unset: as little as max_increase allows, and without that
    no channel is dropped."""

    max_increase: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What the plan as a whole may add to the loss of the untrained model, in nats per learnt
    token. Unset: 0.2 where channels are dropped."""

    back: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = None
    """Share of the sparse tokens of each layer whose way back is left out, which costs the loss
    nothing. Unset: as much as the target needs, up to 0.9, before any channel is dropped; none with
    the criterion `svd` and the search `sweep`, which are about channels."""

    search: Literal["graded", "equal", "sweep"] = "graded"
    """How to find the shares: rising with depth by a rule (some ten measurements); the same in all
    inner layers; or, from those of the rule, by a sweep of all layers and exchanges between them
    that lower the loss of the whole."""

    rows: PositiveInt = 16
    """Rows of the data, chosen by the seed, on which losses are measured."""

    batch_size: PositiveInt = 8
    """Rows per forward pass; give that of the run, whose batches choose their channels alike."""

    first_layers: Annotated[int, Field(ge=0)] | None = None
    """Layers at the start that stay dense; unset: a tenth of all."""

    last_layers: Annotated[int, Field(ge=0)] = 0
    """Layers at the end that stay dense."""

    attention_shares: list[Share] = Field(default=[])
    """Shares of attention channels to try beside those of MLPs; none by default, for on small
    models with few key heads they cost much more loss for the same work than MLP channels."""

    mlp_shares: list[Share] = Field(default=[0.5, 0.75, 0.9], min_length=1)
    """Shares of MLP channels that a sweep tries in each layer."""

    exchanges: Annotated[int, Field(ge=0)] = 30
    """Exchanges between two layers that are tried after a sweep."""

    start: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of a run's steps at the start that are to be dense; written into the plan. Unset: 0.05
    where channels are dropped, none where the way back alone is shorter."""

    span: Literal["batch", "sample"] = "sample"
    """Which tokens a run keeps dense: from the first that is learnt from to the last of each row,
    or (as published) of the whole batch. Written into the plan; less is dense with sample."""

    criterion: Literal["sample", "svd"] = "sample"
    """How the run is to choose channels; written into the plan."""

    sample_tokens: PositiveInt = 32
    """Tokens that the criterion `sample` looks at; written into the plan."""

    sample_of: Literal["batch", "row"] = "batch"
    """Whether this number is looked at in each batch or in each row; written into the plan."""

    compensation: Compensating | None = None
    """What stands in for MLP channels that are left out: linear, mean or none. Unset: linear with
    the criterion `sample`, else none. Written into the plan."""

    lora_rank: PositiveInt = 16
    """Rank of the LoRA on all linear layers that is counted with the operations."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """The seed that chooses the rows."""

    dtype: DtypeName = "auto"
    """Compute type: auto, float32 or bfloat16."""
