"""The settings by which a sparsity plan is found, alone, so that help loads nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.training.data import DataSettings
from gossamer.training.settings import DtypeName, PositiveInt

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class SweepSettings(DataSettings):
    """The settings by which a sparsity plan is found."""

    model: str
    """Base model: an alias such as smollm2-135m, a folder, or a hub id."""

    target: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.5
    """Share of the operations of a run to keep, its dense start included."""

    rows: PositiveInt = 16
    """Rows of the data, chosen by the seed, on which losses are measured."""

    batch_size: PositiveInt = 8
    """Rows per forward pass."""

    mlp_shares: list[Share] = Field(default=[0.75, 0.95], min_length=1)
    """Shares of MLP channels to try in each layer."""

    attention_shares: list[Share] = Field(default=[0.5, 0.75], min_length=1)
    """Shares of attention channels to try in each layer."""

    start: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of a run's steps that are to be dense; written into the plan."""

    span: Literal["batch", "sample"] = "sample"
    """Which tokens a run keeps dense: from the first label to the last of each row, or (as
    published) of the whole batch. Written into the plan; less is dense with sample."""

    lora_rank: PositiveInt = 16
    """Rank of the LoRA on all linear layers that is counted with the operations."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """The seed that chooses the rows."""

    dtype: DtypeName = "auto"
    """Compute type: auto, float32 or bfloat16."""
