"""Settings of the methods that are single modules here; read before PEFT is loaded."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import MethodSettings, PositiveFloat, PositiveInt

Share = Annotated[float, Field(ge=0, lt=1)]
Average = Annotated[float, Field(gt=0, lt=1)]


class LoraSettings(MethodSettings):
    """Settings of `lora`."""

    default_learning_rate = DefaultRate(
        1e-3,
        2e-4,
        source="a third of the best of a sweep of short runs on SmolLM2-135M; "
        "QLoRA's paper, 7 to 13 billion parameters",
    )

    rank: PositiveInt = 16
    """Width of the two thin matrices; more learns more and costs more."""

    alpha: PositiveFloat = 32.0
    """Strength: the update is scaled by alpha / rank. Kept fixed when the rank changes, the best
    learning rate stays about the same."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs set to zero at random while training, against overfitting."""

    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: all-linear, attention, mlp, or a list of layer names such as
    [q_proj, v_proj]. The output head is never one of them."""

    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the decoder layers to adapt, counted from 0; unset: all."""

    rank_pattern: dict[str, PositiveInt] = Field(default={})
    """Other ranks for some layers, by layer name or regular expression: {down_proj: 4}."""

    alpha_pattern: dict[str, PositiveFloat] = Field(default={})
    """Other alphas for some layers, by layer name or regular expression."""


class RsLoraSettings(LoraSettings):
    """Settings of `rslora`."""

    alpha: PositiveFloat = 8.0
    """Strength: the update is scaled by alpha / sqrt(rank). The default gives at rank 16 the same
    scale, 2, as the defaults of `lora`."""


class DoraSettings(LoraSettings):
    """Settings of `dora`."""

    default_learning_rate = DefaultRate(
        1e-3,
        2e-4,
        source="sweep on SmolLM2-135M, as of lora; the paper for LLaMA-7B and LLaMA2-7B at rank 16",
    )


class QLoraSettings(LoraSettings):
    """Settings of `qlora`."""

    double_quant: bool = True
    """Whether the scales of the 4-bit blocks are quantised too; saves 0.37 bits per weight."""


class PissaSettings(LoraSettings):
    """Settings of `pissa`."""

    default_learning_rate = DefaultRate(
        3e-4, 2e-5, source="sweep on SmolLM2-135M; the released script for LLaMA-2-7B"
    )

    alpha: PositiveFloat = 16.0
    """Strength: the factors' product is scaled by alpha / rank, and they start smaller by as much.
    The default gives 1, the paper's choice."""

    fast_svd: PositiveInt | None = None
    """Iterations of a randomised singular value decomposition, much faster on large matrices;
    unset: the exact one."""


class FederaSettings(PissaSettings):
    """Settings of `federa`."""


class VeloraSettings(LoraSettings):
    """Settings of `velora`."""

    default_learning_rate = DefaultRate(
        1e-3, 4e-4, source="sweep on SmolLM2-135M; the released scripts for LLaMA"
    )

    compressed_modules: list[str] = Field(default=["v_proj", "down_proj"])
    """Layers, among those adapted, whose input is kept compressed; the paper's best choice."""

    groups: PositiveInt = 32
    """Numbers kept per token and layer instead of its whole input: more cost more memory and give
    a truer gradient."""

    gradient_scale: PositiveFloat = 1.0
    """Factor of the gradient made from the compressed input; Adam is nearly indifferent to it."""

    direction: Literal["first_batch", "every_batch", "random"] = "first_batch"
    """The direction on which inputs are projected: the mean of the first batch (the paper's
    choice), of each batch, or a random one."""


class AdaloraSettings(MethodSettings):
    """Settings of `adalora`."""

    default_learning_rate = DefaultRate(
        1e-2,
        1e-3,
        source="sweep on SmolLM2-135M, where 1e-3 has hardly begun to learn in 30 steps, since "
        "strengths start at zero; a common choice",
    )

    rank: PositiveInt = 8
    """Mean rank of a layer at the end."""

    initial_rank: PositiveInt = 12
    """Rank of every layer at the start; must be larger than rank."""

    alpha: PositiveFloat = 24.0
    """Strength: the update is scaled by alpha / initial_rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs set to zero at random while training."""

    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: all-linear, attention, mlp, or a list of layer names."""

    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the decoder layers to adapt, counted from 0; unset: all."""

    first_share: Share = 0.1
    """Share of the steps before ranks are taken away."""

    last_share: Share = 0.3
    """Share of the steps after that, with the ranks left as they are."""

    interval: PositiveInt = 1
    """Steps between two allocations of the budget."""

    orthogonality: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the term that keeps each layer's P and Q orthogonal."""

    sensitivity_average: Average = 0.85
    """Share of the old value in the running mean of each weight's importance."""

    uncertainty_average: Average = 0.85
    """Share of the old value in the running mean of that importance's variation."""


class ShiraSettings(MethodSettings):
    """Settings of `shira`."""

    default_learning_rate = DefaultRate(
        1e-3, 2e-4, source="sweep on SmolLM2-135M; that of lora, whose number of weights it has"
    )

    rank: PositiveInt = 16
    """Size: a layer gets as many entries as LoRA of this rank would have weights."""

    mask: Literal["random", "magnitude", "gradient", "snip"] = "random"
    """Which entries learn: random ones, those of the largest |weight|, or of the largest |gradient|
    or |weight * gradient| in a look at the first batches."""

    probe_steps: PositiveInt = 8
    """Batches to look at for the masks `gradient` and `snip`."""

    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: all-linear, attention, mlp, or a list of layer names."""

    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the decoder layers to adapt, counted from 0; unset: all."""


class Ia3Settings(MethodSettings):
    """Settings of `ia3`."""

    default_learning_rate = DefaultRate(
        3e-2, 3e-3, source="sweep on SmolLM2-135M; the paper, with Adafactor and T0"
    )

    target_modules: str | list[str] = Field(default=["k_proj", "v_proj", "down_proj"])
    """Layers to rescale: the paper's keys, values and inner activations of the MLP; or all-linear,
    attention, mlp, or another list."""

    feedforward_modules: list[str] = Field(default=["down_proj"])
    """The modules of target_modules whose input is rescaled rather than their output."""

    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the decoder layers to adapt, counted from 0; unset: all."""


class LnTuningSettings(MethodSettings):
    """Settings of `ln_tuning`."""

    default_learning_rate = DefaultRate(
        3e-3,
        1e-3,
        source="sweep on SmolLM2-135M, the lower of the best on two sets of rows; that of bitfit, "
        "which moves as few weights",
    )

    norms: list[str] | None = None
    """Names of the normalisation layers that learn, such as [input_layernorm]; unset: all."""


class BitfitSettings(MethodSettings):
    """Settings of `bitfit`."""

    default_learning_rate = DefaultRate.flat(
        1e-3, source="the examples in the authors' code, for BERT; not swept"
    )

    target_modules: str | list[str] = "all-linear"
    """Layers whose biases learn: all-linear, attention, mlp, or a list of layer names; those that
    have no bias are passed over."""


class PromptTuningSettings(MethodSettings):
    """Settings of `prompt_tuning`."""

    default_learning_rate = DefaultRate.flat(
        3e-2, source="sweep on SmolLM2-135M, and PEFT's guide for causal models"
    )

    tokens: PositiveInt = 20
    """Virtual tokens in front of the text; each takes the place of a real one in the context."""

    start_text: str | None = None
    """Words whose embeddings the virtual tokens start from, repeated or cut to length; unset: those
    of random tokens of the vocabulary."""


class PrefixTuningSettings(MethodSettings):
    """Settings of `prefix_tuning`."""

    default_learning_rate = DefaultRate(
        3e-2,
        1e-2,
        source="sweep on SmolLM2-135M; PEFT's guide; `projection` wants a far smaller one",
    )

    tokens: PositiveInt = 20
    """Virtual positions in front of the text, in every layer."""

    start_text: str | None = None
    """Words whose keys and values the prefix starts from, repeated or cut to length; unset: those
    of random tokens. Not used with `projection`."""

    projection: PositiveInt | None = None
    """Width of a two-layer network that makes the prefix while it is trained, as in the paper, and
    is thrown away afterwards; unset: keys and values are trained themselves."""


class PTuningSettings(MethodSettings):
    """Settings of `p_tuning`."""

    default_learning_rate = DefaultRate.flat(
        1e-3, source="sweep on SmolLM2-135M, and PEFT's guide to P-tuning for RoBERTa-large"
    )

    tokens: PositiveInt = 20
    """Virtual tokens in front of the text."""

    encoder: Literal["mlp", "lstm"] = "mlp"
    """Network that makes the virtual tokens while they are trained: three linear layers, or the
    paper's two-way LSTM followed by two."""

    encoder_size: PositiveInt = 128
    """Width of that network."""


class FullSettings(MethodSettings):
    """Settings of `full`."""

    default_learning_rate = DefaultRate(
        1e-4, 2e-5, source="sweep on SmolLM2-135M; the default of TRL"
    )

    train_embeddings: bool = True
    """Whether the token embeddings (and an output head tied to them) learn too."""
