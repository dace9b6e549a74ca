"""Prompt tuning: trainable embeddings in front of the text (arXiv 2104.08691)."""

from typing import Any

from gossamer.methods.lora.config import PositiveInt
from gossamer.methods.method import MethodContext, MethodSettings
from gossamer.methods.registry import register
from gossamer.methods.soft_prompt import SoftPromptMethod


class PromptTuningSettings(MethodSettings):
    """Settings of `prompt_tuning`."""

    tokens: PositiveInt = 20
    """Virtual tokens in front of the text; each takes the place of a real one in the context."""

    start_text: str | None = None
    """Words whose embeddings the virtual tokens start from, repeated or cut to length; unset: those
    of random tokens of the vocabulary."""


@register
class PromptTuning(SoftPromptMethod[PromptTuningSettings]):
    """[P; E(x)] instead of E(x): only the embeddings P in front of the text's learn.

    Learning rate: 3e-2, with AdamW, is that of PEFT's guide for causal models; the paper uses 0.3
    with Adafactor and T5.
    """

    name = "prompt_tuning"
    summary = "trainable embeddings in front of the text; tiny, slow to learn, weak on small models"
    kind = "prefix"
    settings_type = PromptTuningSettings
    learning_rate = 3e-2
    size_setting = "tokens"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from peft import PromptTuningConfig, TaskType

        tokens = self.settings.tokens
        return PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=tokens)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.model_parts import is_meta
        from gossamer.methods.prompt_tuning.apply import start_from
        from gossamer.methods.soft_prompt import start_tokens

        settings = self.settings
        ids = None
        if not is_meta(model):
            ids = start_tokens(model, context, settings.tokens, settings.start_text)
        model = super().prepare(model, context)
        if ids is not None:
            start_from(model, ids)
        return model
