"""SHERL as a PEFT tuner: `get_peft_model(model, SherlConfig(...))`."""

from typing import Any

from torch import nn

from gossamer.errors import SettingError, UnsupportedAdapterError
from gossamer.methods.common.peft_tuner import GossamerBlockTuner, register_tuner
from gossamer.methods.common.targets import find_blocks
from gossamer.methods.sherl.config import PEFT_TYPE, SherlConfig
from gossamer.methods.sherl.layer import SherlBlock, Tapped

__all__ = ["SherlConfig", "SherlModel"]


class SherlModel(GossamerBlockTuner):
    """Runs the early blocks without a backward pass, and feeds the late ones from a side network.

    For models of transformers whose decoder holds its blocks in one list: Llama, Mistral, Qwen and
    their like. Quantised bases work as any other.
    """

    method = "sherl"
    prefix = "sherl_"
    tuner_layer_cls = SherlBlock
    no_merge = (
        "SHERL cannot be merged into the weights: a network beside the early layers makes what the "
        "late ones get; keep the adapter, or train 'lora', which can be merged"
    )

    tapped: Tapped

    def _prepare_model(self, peft_config: SherlConfig, model: nn.Module) -> None:
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise UnsupportedAdapterError(
                f"{type(model).__name__} has an encoder beside its decoder; SHERL is for causal "
                "language models of transformers such as Llama, Mistral and Qwen"
            )
        path, blocks = find_blocks(model, "SHERL")
        peft_config.set_places(path, len(blocks))
        width = self.width(model)
        if peft_config.reduction > width:
            raise SettingError(
                f"reduction = {peft_config.reduction} is above the model's width {width}"
            )
        _refuse_early_modules(model, path, peft_config)
        if not hasattr(self, "tapped"):
            self.tapped = Tapped()

    def new_layer(self, target: nn.Module, path: str) -> SherlBlock:
        number = int(path.rpartition(".")[2])
        return SherlBlock(target, number, self.tapped, self.width(self.model))

    def let_go(self) -> None:
        for layer in self._layers():
            if isinstance(layer, SherlBlock):
                layer.restore_mode()


def _refuse_early_modules(model: Any, path: str, config: SherlConfig) -> None:
    """Raise `SettingError` if a module that is to learn besides lies where no gradient comes."""
    early = tuple(f"{path}.{number}." for number in range(config.last + 1))
    embeddings = model.get_input_embeddings()
    for name, module in model.named_modules():
        for wanted in config.modules_to_save or ():
            chosen = name == wanted or name.endswith(f".{wanted}")
            if chosen and (module is embeddings or f"{name}.".startswith(early)):
                raise SettingError(
                    f"modules_to_save: '{wanted}' means {name}, which lies in front of or among "
                    "the early layers, where SHERL computes no gradients; name late modules only"
                )


register_tuner(PEFT_TYPE, SherlConfig, SherlModel, SherlModel.prefix)
