"""A linear layer with a low-rank update seen through a mask."""

import math

import torch
from torch import Tensor, nn

from gossamer.methods.common.sparse_delta.layer import EntryLayer
from gossamer.methods.common.sparse_delta.product import entry_linear, sampled_low_rank
from gossamer.methods.sparse_lora.config import SparseLoraConfig


class SparseLoraLinear(EntryLayer):
    """y = W x + (M o (s B A)) x; of B A only the entries under M are computed."""

    index_name = "sparselora_index"
    adapter_layer_names = ("sparselora_A", "sparselora_B")
    other_param_names = ("sparselora_index", "scale")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.sparselora_A, self.sparselora_B = nn.ParameterDict(), nn.ParameterDict()
        self.scale: dict[str, float] = {}

    def update_layer(self, name: str, config: SparseLoraConfig, path: str) -> None:
        """Give the layer, which is called `path` in the base model, an adapter that changes
        nothing yet."""
        h_out, h_in = self.shape
        self.draw_index(name, path, seed=config.seed, density=config.density)
        self.sparselora_A[name] = nn.Parameter(torch.empty(config.r, h_in))
        nn.init.kaiming_uniform_(self.sparselora_A[name], a=math.sqrt(5))
        self.sparselora_B[name] = nn.Parameter(torch.zeros(h_out, config.r))
        self.scale[name] = config.lora_alpha / config.r
        self.finish_update(name, inference_mode=config.inference_mode)

    def values(self, name: str) -> Tensor:
        """Return the update's entries [n], in the order of the index."""
        a, b = self.sparselora_A[name], self.sparselora_B[name]
        return self.scale[name] * sampled_low_rank(a, b, self.pattern(name))

    def change(self, name: str, x: Tensor) -> Tensor:
        return entry_linear(x, self.values(name), self.pattern(name))

    def get_delta_weight(self, name: str) -> Tensor:
        return self.pattern(name).scatter(self.values(name))
