"""A linear layer whose weight changes at single entries, for PEFT; base of the methods' layers."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from gossamer.errors import AdapterError, SettingError, UnsupportedAdapterError
from gossamer.methods.entries.mask import num_entries, random_entries
from gossamer.methods.entries.product import Pattern


class EntryLayer(nn.Module, BaseTunerLayer):
    """y = base(x) + the change of each active adapter. Subclasses say what the change is.

    The places of the entries are an int32 buffer [2, n], `index_name`, saved with the weights.
    """

    index_name: ClassVar[str]

    # PEFT's own, which has no types.
    base_layer: Any
    get_base_layer: Any
    active_adapters: Any
    set_adapter: Any
    adapter_layer_names: tuple[str, ...]
    other_param_names: tuple[str, ...]

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        setattr(self, self.index_name, BufferDict({}, persistent=True))
        self._patterns: dict[str, tuple[tuple[Any, ...], Pattern]] = {}
        base = self.get_base_layer()
        self.in_features, self.out_features = base.in_features, base.out_features

    @property
    def shape(self) -> tuple[int, int]:
        """[h_out, h_in] of the weight."""
        return self.out_features, self.in_features

    def index(self, name: str) -> Tensor:
        """Rows and columns [2, n] of the entries of an adapter."""
        return getattr(self, self.index_name)[name]

    def set_index(self, name: str, index: Tensor) -> None:
        """Give an adapter its entries; on the device of the base weight."""
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
        """The same, ready for products; made anew when the buffer was loaded or moved."""
        index = self.index(name)
        state = (index.data_ptr(), index._version, index.device)
        if name not in self._patterns or self._patterns[name][0] != state:
            self._patterns[name] = state, Pattern(index, self.shape)
        return self._patterns[name][1]

    @abstractmethod
    def change(self, name: str, x: Tensor) -> Tensor:
        """What an adapter adds to the output for the input `x`."""

    @abstractmethod
    def get_delta_weight(self, name: str) -> Tensor:
        """An adapter's change of the weight, dense [h_out, h_in]."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        out: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return out
        for name in self.active_adapters:
            if name in getattr(self, self.index_name):
                out = out + self.change(name, x).to(out.dtype)
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
            if safe_merge and not delta.isfinite().all():
                raise AdapterError(f"adapter '{name}' holds values that are no numbers; not merged")
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
        """To be called when an adapter's weights are there: device, type, who learns.

        They are kept in float32 (in float64 if the base is), which entries need to learn.
        """
        weight = self.get_base_layer().weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        for part in self.adapter_layer_names + self.other_param_names:
            held = getattr(self, part)
            if isinstance(held, nn.ParameterDict | BufferDict) and name in held:
                tensor = held[name]
                if not tensor.is_meta:
                    held[name] = tensor.to(
                        weight.device, dtype if tensor.is_floating_point() else tensor.dtype
                    )
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)


def require_linear(target: nn.Module, path: str, *, method: str, allow_4bit: bool) -> None:
    """Raise `SettingError` unless `target` is a linear layer which the method can adapt."""
    kind = type(target).__name__
    if kind in ("Linear4bit", "Linear8bitLt") and not allow_4bit:
        raise SettingError(
            f"method '{method}' cannot train the entries of {path}: its weight is quantised "
            f"({kind}). Load the base model in full, or use method 'qlora'"
        )
    if not isinstance(target, nn.Linear):
        raise SettingError(
            f"method '{method}' cannot adapt {path}: it is a {kind}, not a linear layer"
        )
