"""Prompt tuning, prefix tuning, P-tuning: what learns stands in front of the text.

arXiv 2104.08691, 2101.00190 and 2103.10385.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, TaskType
from transformers import AutoTokenizer

from gossamer.basemodel.versions import cache_in
from gossamer.errors import SettingError
from gossamer.methods.common.files import read_learnt, write_learnt
from gossamer.methods.common.low_rank import ADAPTER
from gossamer.methods.common.method import MethodContext, S
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.common.targets import is_meta, refuse_uneven_heads
from gossamer.methods.settings import PrefixTuningSettings, PromptTuningSettings, PTuningSettings


def prefix_config(tokens: int, projection: int | None) -> Any:
    """Make PEFT's config, which finds layers, heads and their width in the model."""
    return PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=tokens,
        prefix_projection=projection is not None,
        encoder_hidden_size=projection,
    )


def start_prefix_from(model: Any, ids: torch.Tensor) -> None:
    """Set the prefix of a `PeftModel` to the keys and values of the tokens `ids` [tokens].

    The paper's section 7.4 found activations of real words a far better start than random numbers.
    PEFT keeps [tokens, 2 * layers * heads * head_dim]: of each layer the keys, then the values.
    """
    with torch.no_grad():
        cache = cache_in(model.get_base_model()(input_ids=ids[None], use_cache=True))
        pairs = [tensor[0] for layer in cache.layers for tensor in (layer.keys, layer.values)]
        # [2 * layers, heads, tokens, head_dim]
        prefix = torch.stack(pairs).permute(2, 0, 1, 3).reshape(len(ids), -1)
        model.prompt_encoder[ADAPTER].embedding.weight.copy_(prefix)


def start_prompt_from(model: Any, ids: torch.Tensor) -> None:
    """Set the virtual tokens of a `PeftModel` to the embeddings of the tokens `ids`."""
    embeddings = model.get_base_model().get_input_embeddings()
    with torch.no_grad():
        model.prompt_encoder[ADAPTER].embedding.weight.copy_(embeddings(ids))


class SoftPromptMethod(PeftMethod[S]):
    """The result is PEFT's files; checkpoints hold all that learns, encoders included."""

    dense_because = "it puts learnt tokens in front of the text"

    @abstractmethod
    def peft_config(self, model: Any, context: MethodContext) -> Any: ...

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        write_learnt(model, folder)

    def restore(self, model: Any, folder: Path) -> None:
        read_learnt(model, folder)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        super().save(model, folder, context)


def start_tokens(model: Any, context: MethodContext, count: int, text: str | None) -> Any:
    """Return ids [count] to start from: those of `text`, repeated or cut, or random ones."""
    device = model.get_input_embeddings().weight.device
    if text is None:
        vocabulary = model.get_input_embeddings().num_embeddings
        return torch.randint(0, vocabulary, (count,)).to(device)

    tokenizer = AutoTokenizer.from_pretrained(context.base_folder)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if not ids:
        raise SettingError("start_text is empty; leave it out to start from random tokens")
    return torch.tensor((ids * (count // len(ids) + 1))[:count], device=device)


class PromptTuning(SoftPromptMethod[PromptTuningSettings]):
    """[P; E(x)] instead of E(x): only the embeddings P in front of the text's learn."""

    name = "prompt_tuning"
    kind = "prefix"
    settings_type = PromptTuningSettings
    size_setting = "tokens"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        tokens = self.settings.tokens
        return PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=tokens)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        settings = self.settings
        ids = None
        if not is_meta(model):
            ids = start_tokens(model, context, settings.tokens, settings.start_text)
        model = super().prepare(model, context)
        if ids is not None:
            start_prompt_from(model, ids)
        return model


class PrefixTuning(SoftPromptMethod[PrefixTuningSettings]):
    """Attention sees [P_k; K] and [P_v; V] in every layer; only P_k and P_v learn."""

    name = "prefix_tuning"
    kind = "prefix"
    settings_type = PrefixTuningSettings
    size_setting = "tokens"

    def check(self, context: MethodContext) -> None:
        super().check(context)
        if context.gradient_checkpointing:
            raise SettingError(
                "gradient_checkpointing: method 'prefix_tuning' cannot be trained with it, since "
                "transformers drops the keys and values in front of the text then; leave it out"
            )

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        refuse_uneven_heads(model.config, self.name)
        return prefix_config(self.settings.tokens, self.settings.projection)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        settings = self.settings
        ids = None
        if settings.projection is None and not is_meta(model):
            ids = start_tokens(model, context, settings.tokens, settings.start_text)
        model = super().prepare(model, context)
        if ids is not None:
            start_prefix_from(model, ids)
        return model


class PTuning(SoftPromptMethod[PTuningSettings]):
    """[f(P); E(x)] instead of E(x): P and the network f learn, and only f(P) is kept."""

    name = "p_tuning"
    kind = "prefix"
    settings_type = PTuningSettings
    size_setting = "tokens"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        settings = self.settings
        return PromptEncoderConfig(
            task_type=TaskType.CAUSAL_LM,
            num_virtual_tokens=settings.tokens,
            encoder_reparameterization_type=settings.encoder.upper(),
            encoder_hidden_size=settings.encoder_size,
        )
