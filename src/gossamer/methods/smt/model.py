"""SMT as a PEFT tuner: configuration and model. Importing this module makes PEFT know it."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gossamer.errors import AdapterFormatError, SettingError
from gossamer.methods.peft_bridge import GossamerConfig, GossamerTuner, register_tuner
from gossamer.methods.smt.blocks import Block
from gossamer.methods.smt.layer import SmtLinear

PEFT_TYPE = "GOSSAMER_SMT"


@dataclass
class SmtConfig(GossamerConfig):
    """`SmtConfig(blocks=select_blocks(model, batches))` for `get_peft_model`.

    The blocks are stored with the weights; the configuration stores only how many there are.
    """

    tuner_type: ClassVar[str] = PEFT_TYPE

    blocks: dict[str, list[Block]] | None = None
    """Blocks that learn, by path of the linear layer in the base model."""
    layer_sizes: dict[str, list[int]] | None = None
    """Number of blocks and of weights in them, by path; set from `blocks`."""

    def __post_init__(self) -> None:
        if self.blocks is not None:
            self.blocks = {path: [Block(*b) for b in bs] for path, bs in self.blocks.items() if bs}
            self.target_modules = sorted(self.blocks)
            self.layer_sizes = {
                path: [len(bs), sum(b.size for b in bs)] for path, bs in self.blocks.items()
            }
        super().__post_init__()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the blocks."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "blocks"}


class SmtModel(GossamerTuner):
    """A base model whose chosen blocks of weights learn."""

    prefix = "smt_"
    tuner_layer_cls = SmtLinear

    def _create_and_replace(
        self,
        peft_config: SmtConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **options: Any,
    ) -> None:
        if not hasattr(target, "in_features"):
            raise SettingError(
                f"SMT needs linear layers with weights [out, in]; '{current_key}' is a "
                f"{type(target).__name__}"
            )
        blocks, count = _blocks_of(peft_config, current_key, target)
        layer = target if isinstance(target, SmtLinear) else SmtLinear(target)
        if layer is not target:
            layer.set_adapter(adapter_name)
        layer.update_layer(adapter_name, blocks, count, inference_mode=peft_config.inference_mode)
        if layer is not target:
            if adapter_name not in self.active_adapters:
                # A further adapter does not learn until it is made the active one.
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        # What is stored decides how large the adapter is.
        for name, layer in model.named_modules():
            if isinstance(layer, SmtLinear) and adapter_name in layer.smt_values:
                blocks, values = _stored(state_dict, name)
                layer.resize(adapter_name, blocks, values, name)
        remapped: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        return remapped


def _blocks_of(config: SmtConfig, path: str, layer: Any) -> tuple[Tensor, int]:
    """Table of the blocks of a layer, int32 [blocks, 4], and the number of weights in them."""
    if config.layer_sizes is None:
        raise SettingError(
            "SmtConfig has no blocks; choose them first: "
            "SmtConfig(blocks=gossamer.methods.smt.select.select_blocks(model, batches))"
        )
    if config.blocks is None:
        # Loading: the stored weights tell where the blocks are.
        rows, count = config.layer_sizes.get(path, (0, 0))
        return torch.zeros(rows, 4, dtype=torch.int32), count
    for b in config.blocks[path]:
        if b.row + b.height > layer.out_features or b.column + b.width > layer.in_features:
            raise SettingError(
                f"{tuple(b)} reaches outside '{path}', whose weight is "
                f"[{layer.out_features}, {layer.in_features}]"
            )
    return torch.tensor(config.blocks[path], dtype=torch.int32), config.layer_sizes[path][1]


def _stored(state_dict: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    for prefix in ("", "base_model.model."):
        blocks = state_dict.get(f"{prefix}{name}.smt_blocks")
        values = state_dict.get(f"{prefix}{name}.smt_values")
        if blocks is not None and values is not None:
            return blocks, values
    raise AdapterFormatError(f"the adapter has no smt_blocks and smt_values for {name}")


register_tuner(PEFT_TYPE, SmtConfig, SmtModel, SmtModel.prefix)
