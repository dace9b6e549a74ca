"""P-tuning: embeddings in front of the text, made by a small network (arXiv 2103.10385)."""

from typing import Any, Literal

from gossamer.methods.lora.config import PositiveInt
from gossamer.methods.method import MethodContext, MethodSettings
from gossamer.methods.registry import register
from gossamer.methods.soft_prompt import SoftPromptMethod


class PTuningSettings(MethodSettings):
    """Settings of `p_tuning`."""

    tokens: PositiveInt = 20
    """Virtual tokens in front of the text."""

    encoder: Literal["mlp", "lstm"] = "mlp"
    """Network that makes the virtual tokens while they are trained: three linear layers, or the
    paper's two-way LSTM followed by two."""

    encoder_size: PositiveInt = 128
    """Width of that network."""


@register
class PTuning(SoftPromptMethod[PTuningSettings]):
    """[f(P); E(x)] instead of E(x): P and the network f learn, and only f(P) is kept.

    Learning rate: 1e-3 is that of PEFT's guide to P-tuning, for RoBERTa-large.
    """

    name = "p_tuning"
    summary = "trainable embeddings in front of the text, made by a small network"
    kind = "prefix"
    settings_type = PTuningSettings
    learning_rate = 1e-3
    size_setting = "tokens"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from peft import PromptEncoderConfig, TaskType

        settings = self.settings
        return PromptEncoderConfig(
            task_type=TaskType.CAUSAL_LM,
            num_virtual_tokens=settings.tokens,
            encoder_reparameterization_type=settings.encoder.upper(),
            encoder_hidden_size=settings.encoder_size,
        )
