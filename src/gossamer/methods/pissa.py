"""PiSSA: LoRA that starts from the largest singular values of the weight (arXiv 2404.02948)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gossamer.adapters.kinds.low_rank import Factors
from gossamer.errors import SettingError
from gossamer.methods.common.low_rank import ADAPTER, float_copy, lora_layers, write_factors
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.common.targets import is_meta, refuse_quantized
from gossamer.methods.lora import lora_config
from gossamer.methods.settings import FederaSettings, LoraSettings, PissaSettings

START_FILE = "start.safetensors"


def pissa_config(model: Any, settings: LoraSettings, method: str, *, fast_svd: int | None) -> Any:
    """Make PEFT's `LoraConfig`; raises `SettingError` if the base cannot be decomposed."""
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
        save_file(self._tensors, folder / START_FILE)

    def restore(self, model: Any, folder: Path) -> None:
        """Make the start that was written into `folder` that of `model`, base weights included."""
        stored = load_file(folder / START_FILE)
        same = all(torch.equal(stored[name], self._tensors[name]) for name in stored)
        self._tensors = stored
        if not same:
            self._subtract_from_base(model)

    def factors(self, model: Any) -> dict[str, Factors]:
        """Return what was learnt, relative to the untouched base: s (B A - B0 A0), of rank 2 r."""
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
        """Make the base W - s B0 A0: another machine's decomposition differs in the last digits."""

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


if TYPE_CHECKING:
    pass


class Pissa(PeftMethod[PissaSettings]):
    """y = W_res x + (alpha / rank) B A x with B, A from the top of W's SVD and W_res the rest.

    The start computes what the base computes, but the base is changed to the residual. The result
    of a run is a plain LoRA adapter of the untouched base, of twice the rank:
    scale * (B A - B0 A0).
    """

    name = "pissa"
    kind = "low-rank"
    settings_type = PissaSettings
    size_setting = "rank"

    _start: "Start"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return pissa_config(model, self.settings, self.name, fast_svd=self.settings.fast_svd)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        model = super().prepare(model, context)
        self._start = Start(model, context.base_folder)
        return model

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        super().save(model, folder, context)
        self._start.write(folder)

    def restore(self, model: Any, folder: Path) -> None:
        super().restore(model, folder)
        self._start.restore(model, folder)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        write_factors(folder, self._start.factors(model), context)


class Federa(Pissa):
    """FeDeRA's initialisation (arXiv 2404.18848), which is PiSSA's: one method under two names.

    FeDeRA is this start in federated tuning: the server decomposes once and sends the factors.
    """

    name = "federa"
    settings_type = FederaSettings
