"""Tuners of our own inside PEFT; the one file that touches PEFT's tables.

PEFT's own registration refuses a type that is not in its enum. Its mapping tables take plain
strings, and everything that reads them (`get_peft_model`, `save_pretrained`, `from_pretrained`,
merging) looks types up there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from gossamer.errors import UnknownNameError, UnsupportedAdapterError
from gossamer.methods.common.tuner_config import GossamerConfig
from gossamer.methods.common.tuner_layer import GossamerLayer, require_linear


def copy_adapter(model: Any, source: str, target: str) -> None:
    """Make the adapter `target` of a `PeftModel` a copy of its adapter `source`.

    All that would be saved is copied: what learns, what does not (masks, places of blocks, fixed
    factors) and modules beside the adapter; for tuners of PEFT as for ours. Where there is no
    `target` yet it is added with the configuration of `source`; it is not made the active one.

    For TRL's preference trainers with SHiRA, VeRA and others of PEFT whose parameters TRL does not
    copy: `copy_adapter(trainer.model, "default", "ref")` after the trainer is made. Tuners of ours
    need no such call. Raises `UnknownNameError` if there is no `source`.
    """
    if source not in model.peft_config:
        raise UnknownNameError.among("adapter", source, model.peft_config)
    if target not in model.peft_config:
        model.add_adapter(target, model.peft_config[source])
    state = get_peft_model_state_dict(model, adapter_name=source, save_embedding_layers=False)
    # Clones, since room for the copy may be made while it is read.
    state = {key: tensor.detach().clone() for key, tensor in state.items()}
    result = set_peft_model_state_dict(model, state, adapter_name=target)
    if result.unexpected_keys:
        raise RuntimeError(f"{target} has no room for {result.unexpected_keys[:3]}")


__all__ = [
    "GossamerBlockTuner",
    "GossamerConfig",
    "GossamerLayer",
    "GossamerTuner",
    "register_tuner",
]

REFERENCE = "ref"
"""The name under which TRL's trainers add the adapter that stands for the model at the start."""


class GossamerTuner(BaseTuner):
    """Base of our tuners. Subclasses set `method`, `prefix` and `tuner_layer_cls`, override
    `new_layer` and `add_to_layer` where these need more, and are added with `register_tuner`.

    The layers are `GossamerLayer`s. What is trained lies in `ParameterDict`s named
    in `adapter_layer_names`, what is only stored (indices) in PEFT's `BufferDict` with
    `persistent=True`, named in `other_param_names`; both are saved and loaded by PEFT as they are.
    """

    method: ClassVar[str]
    """Name of the method, for messages."""
    allow_4bit: ClassVar[bool] = False
    """Whether quantised weights will do; otherwise they are refused."""
    tuner_layer_cls = BaseTunerLayer
    target_module_mapping: ClassVar[dict[str, Any]] = {}
    adding: str = ""
    """Name of the adapter that is being added."""

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Add an adapter as PEFT does.

        One named `ref` with the very configuration of another begins as its copy: DPO, GRPO, KTO
        and RLOO of TRL add one and mean that. TRL copies parameters by names, which would leave
        out ours and everything that does not learn.
        """
        self.adding = adapter_name
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        if not getattr(config, "init_weights", True):
            self.randomize(adapter_name)
        same = [
            name for name, c in self.peft_config.items() if c is config and name != adapter_name
        ]
        if adapter_name == REFERENCE and same:
            copy_adapter(self, same[0], adapter_name)

    def new_layer(self, target: nn.Module, path: str) -> Any:
        """Make the layer that takes the place of `target`, which the base model calls `path`.

        Raises `SettingError` if the method cannot adapt it.
        """
        require_linear(target, path, method=self.method, quantized=self.allow_4bit)
        return self.tuner_layer_cls(target)

    def add_to_layer(self, layer: Any, adapter_name: str, config: Any, path: str) -> None:
        """Give the layer at `path` an adapter that changes nothing yet."""
        layer.update_layer(adapter_name, config, path)

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, self.tuner_layer_cls):
            self.add_to_layer(target, adapter_name, peft_config, current_key)
            return
        layer = self.new_layer(target, current_key)
        layer.train(target.training)
        self.add_to_layer(layer, adapter_name, peft_config, current_key)
        # A further adapter does not learn until it is made the active one.
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        self._replace_module(parent, target_name, layer, target)

    def adapter_parameters(self, adapter_name: str) -> Iterator[nn.Parameter]:
        """Go through all parameters of an adapter that may learn."""
        for layer in self._layers():
            for part in layer.adapter_layer_names:
                held = getattr(layer, part)
                if adapter_name in held:
                    item = held[adapter_name]
                    yield from item.parameters() if isinstance(item, nn.Module) else [item]

    @torch.no_grad()
    def randomize(self, adapter_name: str) -> None:
        """Make the adapter change something, for tests that want one that does."""
        for parameter in self.adapter_parameters(adapter_name):
            if not parameter.is_meta:
                parameter.add_(0.3 * torch.randn(parameter.shape).to(parameter))

    def _layers(self) -> Iterator[GossamerLayer]:
        return (module for module in self.model.modules() if isinstance(module, GossamerLayer))

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if not autocast_adapter_dtype:
            for layer in self._layers():
                layer.cast_to_base(adapter_name)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        # PEFT drops this argument silently, and every row would be answered by the active adapter.
        if kwargs.get("adapter_names") is not None:
            raise UnsupportedAdapterError(
                f"adapter_names: {type(self).__name__} cannot mix adapters in one batch; call "
                "set_adapter and run one adapter at a time, or serve them with gossamer serve"
            )
        yield


class GossamerBlockTuner(GossamerTuner):
    """Base of tuners whose layers are `GossamerBlock`s, which are never merged.

    Subclasses say why in `no_merge`, and undo in `let_go` what they have done to the model beside
    its blocks.
    """

    no_merge: ClassVar[str]
    """What is said to those who would merge the adapter into the weights."""

    def let_go(self) -> None:
        """Undo what was done to the model; called before its blocks are put back."""

    def width(self, model: Any) -> int:
        """Return how wide the hidden states of `model` are."""
        return int(model.config.get_text_config().hidden_size)

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        return peft_config

    def _replace_module(self, parent: Any, child_name: str, new_module: Any, child: Any) -> None:
        # A block has no weight of its own for PEFT's version to hand over.
        setattr(parent, child_name, new_module)

    def _unload_and_optionally_merge(
        self, merge: bool = True, *args: Any, **kwargs: Any
    ) -> nn.Module:
        if merge:
            raise UnsupportedAdapterError(self.no_merge)
        self.let_go()
        model: nn.Module = super()._unload_and_optionally_merge(False, *args, **kwargs)
        return model

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedAdapterError(self.no_merge)


def register_tuner(
    peft_type: str, config_cls: type[PeftConfig], model_cls: type[BaseTuner], prefix: str
) -> None:
    """Make PEFT know the tuner: configurations whose `peft_type` is that string are its own.

    `prefix` begins the names of all weights and buffers that the tuner adds to a layer. Raises
    `ValueError` if the type or the prefix is taken, or `model_cls.prefix` is
    another one: a mistake in the source.
    """
    if peft_type != peft_type.upper():
        raise ValueError(f"peft_type '{peft_type}' must be in upper case")
    if model_cls.prefix != prefix:
        raise ValueError(f"{model_cls.__name__}.prefix is '{model_cls.prefix}', not '{prefix}'")
    known = PEFT_TYPE_TO_TUNER_MAPPING.get(peft_type)
    if known is model_cls:
        return
    if known is not None:
        raise ValueError(f"peft_type '{peft_type}' is taken by {known.__name__}")
    if prefix in PEFT_TYPE_TO_PREFIX_MAPPING.values():
        raise ValueError(f"prefix '{prefix}' is taken")
    PEFT_TYPE_TO_CONFIG_MAPPING[peft_type] = config_cls
    PEFT_TYPE_TO_TUNER_MAPPING[peft_type] = model_cls
    PEFT_TYPE_TO_PREFIX_MAPPING[peft_type] = prefix
