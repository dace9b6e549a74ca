"""SMT as a PEFT tuner: configuration and model. Importing this module makes PEFT know it."""

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.adapters.layout import PREFIX
from gossamer.errors import AdapterFormatError, SettingError
from gossamer.methods.common.peft_tuner import GossamerTuner, register_tuner
from gossamer.methods.smt.blocks import Block
from gossamer.methods.smt.config import PEFT_TYPE, SmtConfig
from gossamer.methods.smt.layer import SmtLinear

__all__ = ["PEFT_TYPE", "SmtConfig", "SmtModel"]


class SmtModel(GossamerTuner):
    """A base model whose chosen blocks of weights learn."""

    method = "smt"
    prefix = "smt_"
    tuner_layer_cls = SmtLinear

    def _prepare_adapter_config(self, peft_config: SmtConfig, model_config: Any) -> SmtConfig:
        if peft_config.target_modules is None:
            raise SettingError(
                "SmtConfig has no blocks; choose them first, "
                "SmtConfig(blocks=gossamer.tuners.select_blocks(model, batches)), or give "
                "target_modules to have some drawn at random"
            )
        return peft_config

    def new_layer(self, target: nn.Module, path: str) -> SmtLinear:
        if not hasattr(target, "in_features"):
            raise SettingError(
                f"SMT needs linear layers with weights [out, in]; '{path}' is a "
                f"{type(target).__name__}"
            )
        return SmtLinear(target)

    def add_to_layer(self, layer: Any, adapter_name: str, config: SmtConfig, path: str) -> None:
        blocks, count = _blocks_of(config, path, layer)
        layer.update_layer(adapter_name, blocks, count, inference_mode=config.inference_mode)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        # What is stored decides how large the adapter is, and where a further one begins that is
        # added with this configuration.
        loaded = {}
        for name, layer in model.named_modules():
            if isinstance(layer, SmtLinear) and adapter_name in layer.smt_values:
                blocks, values = _stored(state_dict, name)
                layer.resize(adapter_name, blocks, values, name)
                loaded[_base_path(name, config)] = [Block(*block) for block in blocks.tolist()]
        if config.blocks is None and not config.random:
            config.blocks = loaded
        remapped: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        return remapped


def _blocks_of(config: SmtConfig, path: str, layer: Any) -> tuple[Tensor, int]:
    """Table of the blocks of a layer, int32 [blocks, 4], and the number of weights in them."""
    if config.random and config.blocks is None:
        drawn = config.draw(path, (layer.out_features, layer.in_features))
        return torch.tensor(drawn, dtype=torch.int32), sum(b.size for b in drawn)
    sizes = config.layer_sizes or {}
    if config.blocks is None:
        # Loading: the stored weights tell where the blocks are.
        rows, count = sizes.get(path, (0, 0))
        return torch.zeros(rows, 4, dtype=torch.int32), count
    blocks = config.blocks[path]
    for b in blocks:
        if b.row + b.height > layer.out_features or b.column + b.width > layer.in_features:
            raise SettingError(
                f"{tuple(b)} reaches outside '{path}', whose weight is "
                f"[{layer.out_features}, {layer.in_features}]"
            )
    return torch.tensor(blocks, dtype=torch.int32).view(-1, 4), sum(b.size for b in blocks)


def _base_path(name: str, config: SmtConfig) -> str:
    """What the base model calls the layer `name` of a model that PEFT may have wrapped."""
    found = (name.removeprefix(prefix) for prefix in (PREFIX, "model.", ""))
    return next((path for path in found if path in (config.layer_sizes or {})), name)


def _stored(state_dict: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    for prefix in ("", PREFIX):
        blocks = state_dict.get(f"{prefix}{name}.smt_blocks")
        values = state_dict.get(f"{prefix}{name}.smt_values")
        if blocks is not None and values is not None:
            return blocks, values
    raise AdapterFormatError(f"the adapter has no smt_blocks and smt_values for {name}")


register_tuner(PEFT_TYPE, SmtConfig, SmtModel, SmtModel.prefix)
