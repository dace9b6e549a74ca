"""What an adapter answers outside the server: merged into its base, or active in PEFT."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.adapters.merge import merge_into
from gossamer.basemodel.load import load_served_model
from gossamer.basemodel.quiet import quiet_transformers
from gossamer.errors import GossamerError, UnsupportedAdapterError


@dataclass(frozen=True, slots=True)
class ReferenceAnswer:
    """A greedy continuation, computed alone."""

    token_ids: tuple[int, ...]
    logprobs: Tensor
    """[tokens, vocabulary], of the step that chose each token."""


def base_model(folder: Path, quantization: str) -> Any:
    """Load the base model alone, in float32, quantised as it is served."""
    return load_served_model(folder, quantization, dtype=torch.float32)


def merged_model(folder: Path, adapter: Path, quantization: str) -> Any:
    """Load the base with `adapter` folded into its weights; raises as `merge_into`.

    Of a quantised base these are the numbers that its weights stand for, so that nothing is rounded
    a second time.
    """
    model = base_model(folder, quantization)
    _make_whole(model)
    merge_into(model, adapter)
    return model


@torch.no_grad()
def _make_whole(model: nn.Module) -> None:
    """Put plain linear layers in the place of quantised ones.

    Their weights are what those make of the identity, which asks no library how it stores them.
    """
    layers: list[tuple[str, Any]] = list(model.named_modules())
    for path, layer in layers:
        if isinstance(layer, nn.Linear) and type(layer.weight) is not nn.Parameter:
            bias, layer.bias = layer.bias, None  # type: ignore[assignment]
            columns = [layer(rows) for rows in torch.split(torch.eye(layer.in_features), 1024)]
            plain = nn.Linear(layer.in_features, layer.out_features, bias is not None)
            plain.weight = nn.Parameter(torch.cat(columns).T.contiguous())
            plain.bias = bias
            model.set_submodule(path, plain)


def peft_model(folder: Path, adapter: Path, quantization: str) -> Any:
    """Load the base with `adapter` active in PEFT; `UnsupportedAdapterError` if PEFT refuses."""
    from peft import PeftModel

    import gossamer.tuners  # noqa: F401  (makes PEFT know the types that are ours)

    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PeftModel.from_pretrained(base_model(folder, quantization), adapter).eval()
    except GossamerError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnsupportedAdapterError(f"PEFT cannot load {adapter.name}: {first}") from error


@torch.inference_mode()
def greedy(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[ReferenceAnswer]:
    """Continue each prompt by exactly `max_new_tokens` tokens, one prompt at a time."""
    # Every answer has the same length: an end-of-text token is a token like others here.
    model.generation_config.eos_token_id = None
    answers = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        logits = torch.cat(output.logits).float()
        tokens = output.sequences[0, -max_new_tokens:].tolist()
        answers.append(ReferenceAnswer(tuple(tokens), logits.log_softmax(dim=-1)))
    return answers
