"""Prefix tuning: keys and values in front of the text in every layer (arXiv 2101.00190)."""

from typing import Any

from gossamer.errors import SettingError
from gossamer.methods.lora.config import PositiveInt
from gossamer.methods.method import MethodContext, MethodSettings
from gossamer.methods.registry import register
from gossamer.methods.soft_prompt import SoftPromptMethod


class PrefixTuningSettings(MethodSettings):
    """Settings of `prefix_tuning`."""

    tokens: PositiveInt = 20
    """Virtual positions in front of the text, in every layer."""

    start_text: str | None = None
    """Words whose keys and values the prefix starts from, repeated or cut to length; unset: those
    of random tokens. Not used with `projection`."""

    projection: PositiveInt | None = None
    """Width of a two-layer network that makes the prefix while it is trained, as in the paper, and
    is thrown away afterwards; unset: keys and values are trained themselves."""


@register
class PrefixTuning(SoftPromptMethod[PrefixTuningSettings]):
    """Attention sees [P_k; K] and [P_v; V] in every layer; only P_k and P_v learn.

    Learning rate: 1e-2, with AdamW, is that of PEFT's guide; `projection` wants a far smaller one.
    """

    name = "prefix_tuning"
    summary = "trainable keys and values in front of the text, in every layer"
    kind = "prefix"
    settings_type = PrefixTuningSettings
    learning_rate = 1e-2
    size_setting = "tokens"

    def check(self, context: MethodContext) -> None:
        super().check(context)
        if context.gradient_checkpointing:
            raise SettingError(
                "gradient_checkpointing: method 'prefix_tuning' cannot be trained with it, since "
                "transformers drops the keys and values in front of the text then; leave it out"
            )

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.prefix_tuning.apply import prefix_config

        return prefix_config(self.settings.tokens, self.settings.projection)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.model_parts import is_meta
        from gossamer.methods.prefix_tuning.apply import start_from
        from gossamer.methods.soft_prompt import start_tokens

        settings = self.settings
        ids = None
        if settings.projection is None and not is_meta(model):
            ids = start_tokens(model, context, settings.tokens, settings.start_text)
        model = super().prepare(model, context)
        if ids is not None:
            start_from(model, ids)
        return model
