"""A linear layer whose weight changes at single entries: the base of such methods' layers."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from gossamer.errors import UnsupportedAdapterError
from gossamer.methods.common.peft_internals import BufferDict
from gossamer.methods.common.sparse_delta.mask import num_entries, random_entries
from gossamer.methods.common.sparse_delta.product import Pattern
from gossamer.methods.common.tuner_layer import GossamerLayer, require_finite


class EntryLayer(GossamerLayer):
    """y = base(x) + the change of each active adapter. Subclasses say what the change is.

    The places of the entries are an int32 buffer [2, n], `index_name`, saved with the weights.
    """

    index_name: ClassVar[str]

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        setattr(self, self.index_name, BufferDict({}, persistent=True))
        self._patterns: dict[str, tuple[Tensor, int, Pattern]] = {}
        base = self.get_base_layer()
        self.in_features, self.out_features = base.in_features, base.out_features

    @property
    def shape(self) -> tuple[int, int]:
        """Return [h_out, h_in] of the weight."""
        return self.out_features, self.in_features

    def index(self, name: str) -> Tensor:
        """Return rows and columns [2, n] of the entries of an adapter."""
        return getattr(self, self.index_name)[name]

    def set_index(self, name: str, index: Tensor) -> None:
        """Give an adapter its entries, on the device of the base weight."""
        getattr(self, self.index_name)[name] = index.to(self.get_base_layer().weight.device)

    def draw_index(self, name: str, path: str, *, seed: int, density: float) -> None:
        """Give an adapter entries at random; `path` is what the base model calls the layer."""
        if self.get_base_layer().weight.is_meta:
            count = num_entries(self.shape, density)
            index = torch.empty(2, count, dtype=torch.int32, device="meta")
        else:
            index = random_entries(seed, path, self.shape, density)
        self.set_index(name, index)

    def pattern(self, name: str) -> Pattern:
        """Return the entries ready for products; renewed once they were loaded or moved."""
        index = self.index(name)
        # What is made under torch.inference_mode() counts no versions; loading forgets all.
        version = 0 if index.is_inference() else index._version
        known = self._patterns.get(name)
        if known is None or known[0] is not index or known[1] != version:
            # The first to look may be generating, the next may be learning.
            with torch.inference_mode(False):
                known = index, version, Pattern(index, self.shape)
            self._patterns[name] = known
        return known[2]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._patterns.clear()
        super()._load_from_state_dict(*args, **kwargs)

    @abstractmethod
    def change(self, name: str, x: Tensor) -> Tensor:
        """Compute what an adapter adds to the output for the input `x`."""

    @abstractmethod
    def get_delta_weight(self, name: str) -> Tensor:
        """Return an adapter's change of the weight, dense [h_out, h_in]."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        out: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return out
        for name in self.active_adapters:
            if name in getattr(self, self.index_name):
                out = out + _change(self, name, x).to(out.dtype)
        return out

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the change to the base weight; entries that it does not touch stay bit for bit."""
        weight = self.get_base_layer().weight
        if not weight.is_floating_point() or weight.shape != self.shape:
            raise UnsupportedAdapterError(
                "cannot merge into quantised weights; load the base model in full and merge there"
            )
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in getattr(self, self.index_name):
                continue
            delta = self.get_delta_weight(name).detach().to(weight.dtype)
            if safe_merge:
                require_finite(weight.data + delta, name)
            weight.data += delta
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        weight = self.get_base_layer().weight
        while self.merged_adapters:
            delta = self.get_delta_weight(self.merged_adapters.pop()).detach()
            weight.data -= delta.to(weight.dtype)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def finish_update(self, name: str, *, inference_mode: bool = False) -> None:
        """Settle device, type and who learns, once an adapter's weights are there.

        They are kept in float32 (in float64 if the base is), which entries need to learn.
        """
        self._move_adapter_to_device_of_base_layer(name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)


@torch.compiler.disable
def _change(layer: EntryLayer, name: str, x: Tensor) -> Tensor:
    # Sparse tensors are none of torch.compile's: the graph breaks here, once a layer.
    return layer.change(name, x)
