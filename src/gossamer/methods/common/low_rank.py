"""Layers with a low-rank change beside them, and their result as a plain LoRA adapter."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from gossamer.adapters.kinds.low_rank import Factors
from gossamer.adapters.layout import PREFIX
from gossamer.adapters.write import derive_config, write_low_rank
from gossamer.errors import UnsupportedAdapterError
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_internals import get_in_out_features
from gossamer.methods.common.tuner_layer import GossamerLayer, require_finite

ADAPTER = "default"
"""PEFT's name of the one adapter that a run trains."""


def lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Go through the layers with LoRA factors: path in the base model, PEFT's layer."""
    for path, module in model.named_modules():
        if ADAPTER in getattr(module, "lora_A", {}):
            yield path.removeprefix(PREFIX), module


def write_factors(folder: Path, factors: Mapping[str, Factors], context: MethodContext) -> None:
    """Write `factors`, by path in the base model, into `folder` in PEFT's layout of LoRA."""
    config = {**derive_config(factors), "base_model_name_or_path": context.model_name}
    write_low_rank(
        folder, factors, config, base_fingerprint=context.base_fingerprint, overwrite=True
    )


def float_copy(parameter: Any) -> Any:
    """Copy a weight as float32 to the CPU, apart from the model."""
    return parameter.detach().to("cpu").float().clone()


def plain_factors(model: Any) -> dict[str, Factors]:
    """Return the factors of each LoRA layer as they are, by path in the base model."""
    return {
        path: Factors(
            a=float_copy(layer.lora_A[ADAPTER].weight),
            b=float_copy(layer.lora_B[ADAPTER].weight),
            scale=layer.scaling[ADAPTER],
        )
        for path, layer in lora_layers(model)
    }


class LowRankLayer(GossamerLayer):
    """y = base(x) + scale * B A x, with A [r, in] and B [out, r] from `factors`.

    The weight of the base is touched by merging only, so bases in 4 bits work as any other.
    """

    # PEFT's part of the class, which has no types.
    get_base_weight: Callable[[], Tensor]
    set_base_weight: Callable[[Tensor], None]

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.in_features, self.out_features = get_in_out_features(base)
        if self.in_features is None or type(base).__name__ == "Conv1D":
            raise UnsupportedAdapterError(
                f"{type(base).__name__} cannot be adapted; choose linear layers as targets"
            )

    @abstractmethod
    def factors(self, adapter_name: str) -> Factors | None:
        """Return A, B and the scale of the adapter; None if it does not change this layer."""

    def drop(self, adapter_name: str, inputs: Tensor) -> Tensor:
        """Return the adapter's input after dropout."""
        return inputs

    def forward(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = cast(Tensor, self.base_layer(inputs, *args, **kwargs))
        if self.disable_adapters or self.merged:
            return result
        for name in self.active_adapters:
            if (pair := self.factors(name)) is not None:
                narrow = self.drop(name, inputs).to(pair.a.dtype)
                change = nn.functional.linear(nn.functional.linear(narrow, pair.a), pair.b)
                result = result + (pair.scale * change).to(result.dtype)
        return result

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Return the change of the weight [out, in]; PEFT's conversions call this."""
        pair = self.factors(adapter_name)
        if pair is None:
            raise UnsupportedAdapterError(f"there is no adapter '{adapter_name}' on this layer")
        return pair.scale * (pair.b @ pair.a)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        for name in check_adapters_to_merge(self, adapter_names):
            if self.factors(name) is None:
                continue
            weight = self.get_base_weight()
            merged = weight + self.get_delta_weight(name).to(weight.dtype)
            if safe_merge:
                require_finite(merged, name)
            self.set_base_weight(merged)
            self.merged_adapters.append(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            weight = self.get_base_weight()
            self.set_base_weight(weight - self.get_delta_weight(name).to(weight.dtype))

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True


@torch.no_grad()
def write_result(model: Any, folder: Path, context: MethodContext) -> None:
    """Write the adapter of a run as plain LoRA of the untouched base into `folder`, exactly."""
    factors = {}
    for path, module in model.named_modules():
        if isinstance(module, LowRankLayer) and (pair := module.factors(ADAPTER)) is not None:
            factors[path.removeprefix(PREFIX)] = Factors(
                a=float_copy(pair.a), b=float_copy(pair.b), scale=pair.scale
            )
    write_factors(folder, factors, context)
