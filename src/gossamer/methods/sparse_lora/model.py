"""`sparse_lora` in PEFT: importing this module makes `get_peft_model` and the rest know it."""

from collections.abc import Callable, Iterable

from peft import PeftModel
from torch import Tensor

from gossamer.methods.common.peft_tuner import GossamerTuner, register_tuner
from gossamer.methods.common.sparse_delta.probe import largest_entries
from gossamer.methods.sparse_lora.config import SparseLoraConfig
from gossamer.methods.sparse_lora.layer import SparseLoraLinear

__all__ = ["SparseLoraConfig", "SparseLoraModel", "choose_entries"]


class SparseLoraModel(GossamerTuner):
    """Replaces linear layers, quantised ones too, by `SparseLoraLinear`s."""

    method = "sparse_lora"
    allow_4bit = True
    prefix = "sparselora_"
    tuner_layer_cls = SparseLoraLinear


def choose_entries(
    model: PeftModel,
    batches: Callable[[], Iterable[dict[str, Tensor]]],
    *,
    adapter_name: str = "default",
    checkpointing: bool = False,
) -> None:
    """Put the mask of each matrix where the gradient of the loss over the batches is largest.

    To be called before training: entries that have learnt something would be forgotten. `batches`
    gives the same batches (input_ids, attention_mask, labels) each time. With `checkpointing` only
    the inputs of the model's blocks are kept between forward and backward. Raises `DataError` if
    there is no batch.
    """
    layers = {
        path: layer for path, layer in model.named_modules() if isinstance(layer, SparseLoraLinear)
    }
    density = model.peft_config[adapter_name].density
    chosen = largest_entries(
        model.get_base_model(),
        {path: layer.base_layer for path, layer in layers.items()},
        batches,
        density=density,
        checkpointing=checkpointing,
    )
    for path, index in chosen.items():
        layers[path].set_index(adapter_name, index)


register_tuner(SparseLoraConfig.tuner_type, SparseLoraConfig, SparseLoraModel, "sparselora_")
