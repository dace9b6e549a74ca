"""A linear layer that reads its change from LoRTA's shared tensor."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from gossamer.adapters.kinds.low_rank import Factors
from gossamer.methods.common.low_rank import LowRankLayer
from gossamer.methods.lorta.config import LortaConfig
from gossamer.methods.lorta.tensor_map import TensorPlace


@dataclass(frozen=True, slots=True)
class SharedFactors:
    """The five factors of the model, by name of the adapter; no module, so that the layers that
    hold it do not own its weights."""

    inputs: Mapping[str, Tensor]
    """A [d, r]"""
    width: Mapping[str, Tensor]
    """B [d / H, r]"""
    heads: Mapping[str, Tensor]
    """C_H [H, r]"""
    types: Mapping[str, Tensor]
    """C_M [matrices of a block, r]"""
    layers: Mapping[str, Tensor]
    """C_L [L, r]"""


class LortaLinear(LowRankLayer):
    """y = W x + (alpha / r) [.. B diag(C_H[h] * C_M[m] * C_L[l]) .. over heads h] Aᵀ x.

    Convention of the paper: A spans the inputs, B and C_H span the outputs, head after head.
    """

    adapter_layer_names = ()
    other_param_names = ("places", "configs")

    def __init__(self, base: nn.Module, shared: SharedFactors) -> None:
        super().__init__(base)
        self.shared = shared
        self.places: dict[str, TensorPlace] = {}
        self.configs: dict[str, LortaConfig] = {}

    def _get_available_adapters(self) -> set[str]:
        return set(self.places)

    def update_layer(self, adapter_name: str, config: LortaConfig, place: TensorPlace) -> None:
        """Let the adapter act here, at `place` in its tensor."""
        self.places[adapter_name] = place
        self.configs[adapter_name] = config
        self.set_adapter(self.active_adapters)

    def factors(self, adapter_name: str) -> Factors | None:
        place = self.places.get(adapter_name)
        if place is None:
            return None
        shared, config = self.shared, self.configs[adapter_name]
        common = shared.types[adapter_name][place.type] * shared.layers[adapter_name][place.layer]
        heads = shared.heads[adapter_name].narrow(0, *place.heads) * common
        width = shared.width[adapter_name].narrow(0, *place.width)
        # As small as LoRA's B: the update of the weight itself is never built.
        b = (heads[:, None] * width[None]).reshape(-1, config.rank)
        a = shared.inputs[adapter_name].narrow(0, *place.inputs).T
        return Factors(a=a, b=b, scale=config.alpha / config.rank)

    def drop(self, adapter_name: str, inputs: Tensor) -> Tensor:
        return nn.functional.dropout(inputs, self.configs[adapter_name].dropout, self.training)
