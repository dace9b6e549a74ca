"""MEFT as a PEFT tuner: `get_peft_model(model, MeftConfig(...))`."""

from typing import Any

from torch import nn

from gossamer.errors import SettingError, UnsupportedAdapterError
from gossamer.methods.common.peft_tuner import GossamerBlockTuner, register_tuner
from gossamer.methods.meft.config import PEFT_TYPE, MeftConfig
from gossamer.methods.meft.family import decoder_blocks
from gossamer.methods.meft.layer import MeftLayer
from gossamer.methods.meft.stack import ReversibleStack

__all__ = ["MeftConfig", "MeftModel"]

VANILLA_LAYERS = 2
"""How many layers at the end stay as they are by default: the last ones change the states most, and
the mean of two streams is far from either there."""


class MeftModel(GossamerBlockTuner):
    """Makes the first decoder layers of a model of Llama's family reversible; see `MeftConfig`."""

    method = "meft"
    prefix = "meft_"
    tuner_layer_cls = MeftLayer
    no_merge = (
        "MEFT cannot be merged into the weights: the model computes with two streams and networks "
        "beside its layers; keep the adapter, or train 'lora', which can"
    )

    def _prepare_model(self, peft_config: MeftConfig, model: nn.Module) -> None:
        path, layers = decoder_blocks(model)
        count = peft_config.reversible_layers
        if count is None:
            count = default_layers(len(layers))
        if count > len(layers):
            raise SettingError(
                f"reversible_layers = {count} is above the {len(layers)} layers of the model"
            )
        peft_config.set_layers(path, count)
        if not hasattr(self, "_stack"):
            self._stack = ReversibleStack()
            self._hook = model.register_forward_pre_hook(self._before_model, with_kwargs=True)

    def new_layer(self, target: nn.Module, path: str) -> MeftLayer:
        number = int(path.rpartition(".")[2])
        return MeftLayer(target, self._stack, number, self.width(self.model))

    def _before_model(self, module: Any, args: Any, kwargs: Any) -> None:
        wanted = kwargs.get("output_hidden_states", module.config.output_hidden_states)
        if wanted and any(self._stack.active(layer) is not None for layer in self._layers()):
            raise UnsupportedAdapterError(
                "output_hidden_states: MEFT has two streams instead of one hidden state per layer; "
                "leave it out, or call the model inside disable_adapter()"
            )

    def let_go(self) -> None:
        self._hook.remove()


def default_layers(count: int) -> int:
    """Return how many of `count` decoder layers are reversible by default."""
    return max(1, count - VANILLA_LAYERS)


register_tuner(PEFT_TYPE, MeftConfig, MeftModel, MeftModel.prefix)
