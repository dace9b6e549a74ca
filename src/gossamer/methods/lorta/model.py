"""LoRTA as a PEFT tuner: `get_peft_model(model, LortaConfig(...))`."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from gossamer.methods.common.peft_tuner import GossamerTuner, register_tuner
from gossamer.methods.common.targets import linear_paths
from gossamer.methods.lorta.config import PEFT_TYPE, LortaConfig
from gossamer.methods.lorta.layer import LortaLinear, SharedFactors
from gossamer.methods.lorta.tensor_map import TensorMap, make_plan

__all__ = ["LortaConfig", "LortaModel"]

_TABLES = ("lorta_A", "lorta_B", "lorta_heads", "lorta_types", "lorta_layers")


class LortaModel(GossamerTuner):
    """One tensor, factorised, holds the changes of all attention matrices of the model.

    The five factors belong to the tuner itself; every layer reads its slice.
    """

    method = "lorta"
    prefix = "lorta_"
    tuner_layer_cls = LortaLinear
    uses_shared_state = True

    def _prepare_adapter_config(self, peft_config: LortaConfig, model_config: Any) -> LortaConfig:
        return peft_config

    def _prepare_model(self, peft_config: LortaConfig, model: nn.Module) -> None:
        if not hasattr(self, "lorta_A"):
            for table in _TABLES:
                setattr(self, table, nn.ParameterDict())
            self._shared = SharedFactors(*(getattr(self, table) for table in _TABLES))
        paths = [path.removesuffix(".base_layer") for path in linear_paths(model)]
        matrices = []
        for path in paths:
            if path.rpartition(".")[2] in peft_config.types:
                layer: Any = model.get_submodule(path)
                matrices.append((path, layer.in_features, layer.out_features))
        # Injection of this adapter follows at once.
        self._plan = plan = make_plan(model.config, matrices, peft_config.types)
        device = next(model.parameters()).device
        for table, value in zip(_TABLES, _start(plan, peft_config), strict=True):
            getattr(self, table)[self.adding] = nn.Parameter(value.to(device))

    def new_layer(self, target: nn.Module, path: str) -> LortaLinear:
        return LortaLinear(target, self._shared)

    def add_to_layer(self, layer: Any, adapter_name: str, config: LortaConfig, path: str) -> None:
        layer.update_layer(adapter_name, config, self._plan.places[path])

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        # PEFT sees to it that a further adapter changes nothing of who learns, in the model only.
        before = [(p, p.requires_grad) for _, p in self._parameters_by_adapter()]
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        for parameter, learns in before:
            parameter.requires_grad_(learns)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        for name, parameter in self._parameters_by_adapter():
            parameter.requires_grad_(name in names and not inference_mode)

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for name, parameter in self._parameters_by_adapter():
            if name in names:
                parameter.requires_grad_(requires_grad)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        for table in _TABLES:
            del getattr(self, table)[adapter_name]

    def adapter_parameters(self, adapter_name: str) -> Iterator[nn.Parameter]:
        return (p for name, p in self._parameters_by_adapter() if name == adapter_name)

    @torch.no_grad()
    def randomize(self, adapter_name: str) -> None:
        # Of the five factors this one is zero.
        table = self.lorta_B[adapter_name]
        if not table.is_meta:
            table += torch.randn(table.shape).to(table)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        layer = next(self._layers(), None)
        dtype = torch.float32 if autocast_adapter_dtype or layer is None else layer.base_dtype()
        for parameter in self.adapter_parameters(adapter_name):
            if dtype is not None and (not autocast_adapter_dtype or parameter.element_size() < 4):
                parameter.data = parameter.data.to(dtype)

    def _parameters_by_adapter(self) -> Iterator[tuple[str, nn.Parameter]]:
        for table in _TABLES if hasattr(self, "lorta_A") else ():
            yield from getattr(self, table).items()


def _start(plan: TensorMap, config: LortaConfig) -> list[torch.Tensor]:
    """Factors A, B, C_H, C_M and C_L at the start; B is zero, so nothing changes yet."""
    counts = (plan.inputs, plan.width, plan.heads, plan.types, plan.layers)
    factors = [torch.empty(count, config.rank) for count in counts]
    slopes = (5**0.5, None, *[5**0.5 * config.init_scale] * 3)
    for factor, slope in zip(factors, slopes, strict=True):
        if slope is None:
            factor.zero_()
        else:
            nn.init.kaiming_uniform_(factor, a=slope)
    return factors


register_tuner(PEFT_TYPE, LortaConfig, LortaModel, LortaModel.prefix)
