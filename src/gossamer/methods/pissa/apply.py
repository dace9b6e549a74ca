"""Where PiSSA started from: needed to resume exactly and to write the result for the base."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from gossamer.adapters.kinds.low_rank import Factors
from gossamer.errors import SettingError
from gossamer.methods.lora.apply import lora_config
from gossamer.methods.lora.config import LoraSettings
from gossamer.methods.low_rank_result import ADAPTER, float_copy, lora_layers
from gossamer.methods.model_parts import is_meta, refuse_quantized

FILE = "start.safetensors"


def pissa_config(model: Any, settings: LoraSettings, method: str, *, fast_svd: int | None) -> Any:
    """PEFT's `LoraConfig`; raises `SettingError` if the base cannot be decomposed."""
    refuse_quantized(model, method, "the weights must be replaced by the decomposition's rest")
    init: str | bool = "pissa" if fast_svd is None else f"pissa_niter_{fast_svd}"
    return lora_config(model, settings, init_lora_weights=True if is_meta(model) else init)


class Start:
    """The factors A0 [rank, h_in] and B0 [h_out, rank] of each layer as they were at the start."""

    def __init__(self, model: Any, base_folder: Path) -> None:
        self._base_folder = base_folder
        self._tensors: dict[str, torch.Tensor] = {}
        if is_meta(model):
            return
        for path, layer in lora_layers(model):
            _check_rank(path, layer)
            self._tensors[f"{path}.A"] = float_copy(layer.lora_A[ADAPTER].weight)
            self._tensors[f"{path}.B"] = float_copy(layer.lora_B[ADAPTER].weight)

    def write(self, folder: Path) -> None:
        """Write the factors into `folder`."""
        save_file(self._tensors, folder / FILE)

    def restore(self, model: Any, folder: Path) -> None:
        """Make the start that was written into `folder` that of `model`, base weights included."""
        stored = load_file(folder / FILE)
        same = all(torch.equal(stored[name], self._tensors[name]) for name in stored)
        self._tensors = stored
        if not same:
            self._subtract_from_base(model)

    def factors(self, model: Any) -> dict[str, Factors]:
        """What was learnt, relative to the untouched base: s (B A - B0 A0), of rank 2 r."""
        found = {}
        for path, layer in lora_layers(model):
            a = float_copy(layer.lora_A[ADAPTER].weight)
            b = float_copy(layer.lora_B[ADAPTER].weight)
            found[path] = Factors(
                a=torch.cat([a, self._tensors[f"{path}.A"]]),
                b=torch.cat([b, -self._tensors[f"{path}.B"]], dim=1),
                scale=layer.scaling[ADAPTER],
            )
        return found

    def _subtract_from_base(self, model: Any) -> None:
        """W - s B0 A0 anew: another machine's decomposition differs in the last digits."""
        from transformers import AutoModelForCausalLM

        layers = dict(lora_layers(model))
        dtype = next(iter(layers.values())).get_base_layer().weight.dtype
        base = AutoModelForCausalLM.from_pretrained(self._base_folder, dtype=dtype)
        for path, layer in layers.items():
            weight = layer.get_base_layer().weight
            product = (
                layer.scaling[ADAPTER] * self._tensors[f"{path}.B"] @ self._tensors[f"{path}.A"]
            )
            if layer.fan_in_fan_out:
                product = product.T
            rest = base.get_submodule(path).weight.detach().float() - product
            weight.data.copy_(rest.to(weight.dtype))


def _check_rank(path: str, layer: Any) -> None:
    found, wanted = layer.lora_A[ADAPTER].weight.shape[0], layer.r[ADAPTER]
    if found != wanted:
        raise SettingError(
            f"rank {wanted} is more than the {found} singular values of {path}; lower rank, or "
            f"give that layer another: rank_pattern={{{path.rsplit('.', 1)[-1]}: {found}}}"
        )
