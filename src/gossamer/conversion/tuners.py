"""The changes of adapters that one of our tuners in PEFT saved."""

from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor

import gossamer.tuners  # noqa: F401 - makes PEFT know their types
from gossamer.adapters.kinds.low_rank import Factors
from gossamer.adapters.layout import PREFIX
from gossamer.adapters.source import AdapterSource
from gossamer.conversion.low_rank import Change
from gossamer.errors import BaseMismatchError, UnsupportedAdapterError
from gossamer.methods.common.tuner_layer import GossamerLayer

_NAME = "default"


def tuner_changes(source: AdapterSource, structure: Any) -> Iterator[tuple[str, Change]]:
    """Go through the changes of the layers, as `changes.changes`; `structure` is the base model on
    the device "meta".

    The tuner is put on uninitialised memory in place of the base's weights, which takes no room as
    long as nothing touches it; only the adapter's own numbers are read.
    """
    model = _on_blank_model(source, structure)
    found = False
    for path, layer in model.named_modules():
        if isinstance(layer, GossamerLayer):
            found = True
            change = _change(source, layer)
            if change is not None:
                yield path.removeprefix(PREFIX), change
    if not found:
        raise UnsupportedAdapterError(_not_a_change(source))


@torch.no_grad()
def _change(source: AdapterSource, layer: Any) -> Change | None:
    if hasattr(layer, "factors"):
        pair = layer.factors(_NAME)
        if pair is None:
            return None
        return Factors(a=_float(pair.a), b=_float(pair.b), scale=pair.scale)
    if not layer.supports_lora_conversion(_NAME):
        raise UnsupportedAdapterError(_not_a_change(source))
    return _float(layer.get_delta_weight(_NAME))


def _on_blank_model(source: AdapterSource, structure: Any) -> Any:
    config = _config(source)
    with source.open_weights() as stored:
        weights = source.read_finite(stored)
    blank = structure.to_empty(device="cpu")
    model = PeftModel(blank, config, adapter_name=_NAME, low_cpu_mem_usage=True)
    try:
        result = set_peft_model_state_dict(
            model, dict(weights.tensors()), adapter_name=_NAME, low_cpu_mem_usage=True
        )
    except RuntimeError as error:
        raise _other_base(source, str(error).strip().splitlines()[-1].strip()) from None
    prefix = model.base_model.prefix
    missing = [key for key in result.missing_keys if prefix in key]
    if missing or result.unexpected_keys:
        what, key = ("lacks", missing[0]) if missing else ("has", result.unexpected_keys[0])
        raise _other_base(source, f"it {what} {key}")
    return model


def _config(source: AdapterSource) -> Any:
    known = PEFT_TYPE_TO_CONFIG_MAPPING.get(source.peft_type)
    if known is None:
        raise UnsupportedAdapterError(
            f"adapter {source.name} is of type {source.config['peft_type']}, which this version "
            "does not know; take the version that wrote it"
        )
    config: PeftConfig = known.from_pretrained(str(source.folder))
    if getattr(config, "modules_to_save", None):
        raise UnsupportedAdapterError(
            f"adapter {source.name} also holds whole modules (modules_to_save = "
            f"{sorted(config.modules_to_save)}), which are no LoRA; merge it with PEFT instead"
        )
    config.inference_mode = True
    return config


def _float(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


def _other_base(source: AdapterSource, reason: str) -> BaseMismatchError:
    return BaseMismatchError(
        f"adapter {source.name} does not fit the base model: {reason}; give the base it was "
        "trained on with --model"
    )


def _not_a_change(source: AdapterSource) -> str:
    return (
        f"adapter {source.name} is of type {source.config['peft_type']}, whose effect is no change "
        "of the weights of linear layers, so no LoRA does the same; load it with PEFT after "
        "`import gossamer.tuners`"
    )
