"""Settings of LoRAPrune."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import MethodSettings, PositiveFloat, PositiveInt

Ratio = Annotated[float, Field(ge=0, lt=1)]


class LorapruneSettings(MethodSettings):
    """Settings of `loraprune`."""

    default_learning_rate = DefaultRate(
        1e-3,
        1e-4,
        source="that of lora on SmolLM2-135M, though a sweep with pruning bore up to 1e-2; the "
        "paper, for 7 billion parameters and more and batches of 128 rows",
    )

    rank: PositiveInt = 8
    """Width of the two thin matrices beside each linear layer, all of which are adapted."""

    alpha: PositiveFloat = 16.0
    """Strength: the update is scaled by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs set to zero at random while training."""

    mlp_ratio: Ratio = 0.2
    """Share of the channels of each pruned MLP that goes."""

    head_ratio: Ratio = 0.0
    """Share of the key/value heads of each pruned layer (with ranking=global: of all together) that
    goes, each with its query heads; must be enough for one head where it is not 0. The paper prunes
    heads and channels alike."""

    keep_layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the decoder layers that stay whole, counted from 0; unset: the first tenth and the
    last, as in the released code. With [] and ranking=local all layers are cut alike, and where the
    heads left divide the hidden size transformers loads the result without Gossamer."""

    criterion: Literal["lora_gradient", "magnitude", "random"] = "lora_gradient"
    """What tells which channels and heads matter least: the weight times the gradient that LoRA's
    gradients estimate, the weight alone, or chance; the latter two are for comparison."""

    importance: Literal["square", "absolute"] = "square"
    """What is summed over the entries of a channel or head: the squares of the paper, or the
    magnitudes of the released code."""

    normalize: bool = False
    """Whether the sums of each matrix are brought to length 1 before those of a layer's matrices
    are added, as in the released code."""

    smoothing: Ratio = 0.9
    """Share of the old value in the running mean of each importance; 0: the last step alone."""

    ranking: Literal["local", "global"] = "local"
    """Who competes: the channels (or heads) of each layer among themselves, so that all pruned
    layers lose as many, or those of all pruned layers, of which each keeps one at least."""

    interval: PositiveInt = 10
    """Steps between two prunings, while the share that is gone grows."""

    warmup_share: Ratio = 0.1
    """Share of the steps before anything is pruned."""

    recovery_share: Ratio = 0.1
    """Share of the steps at the end that train what is left."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.warmup_share + self.recovery_share >= 1:
            raise ValueError("warmup_share and recovery_share leave no steps to prune in")
        if self.mlp_ratio == self.head_ratio == 0:
            raise ValueError("mlp_ratio and head_ratio are both 0: nothing would be pruned")
        return self
