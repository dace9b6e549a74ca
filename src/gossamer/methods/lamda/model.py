"""LaMDA as a PEFT tuner: `get_peft_model(model, LamdaConfig(...))`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.adapters.layout import PREFIX
from gossamer.errors import SettingError
from gossamer.methods.common.peft_internals import include_all_linear_layers
from gossamer.methods.common.peft_tuner import GossamerTuner, register_tuner
from gossamer.methods.common.targets import linear_paths
from gossamer.methods.lamda.config import PEFT_TYPE, LamdaConfig
from gossamer.methods.lamda.freezing import FreezeColumns, lamda_layers
from gossamer.methods.lamda.layer import LamdaLinear
from gossamer.methods.lamda.spectrum import allocate_ranks, energy_share

__all__ = ["FreezeColumns", "LamdaConfig", "LamdaModel"]

_PASSES = 4
"""Forward passes that may well be a probe; more of them are training."""


class LamdaModel(GossamerTuner):
    """Trains a small square matrix between singular vectors of each weight."""

    method = "lamda"
    allow_4bit = True
    prefix = "lamda_"
    tuner_layer_cls = LamdaLinear
    _passes = 0

    def _prepare_adapter_config(self, peft_config: LamdaConfig, model_config: Any) -> LamdaConfig:
        if peft_config.target_modules is None:
            peft_config.target_modules = "all-linear"
        return peft_config

    def _prepare_model(self, peft_config: LamdaConfig, model: nn.Module) -> None:
        if peft_config.allocation == "spectrum" and not peft_config.rank_pattern:
            peft_config.rank_pattern = self._ranks(peft_config, model)

    def _ranks(self, config: LamdaConfig, model: nn.Module) -> dict[str, int]:
        # PEFT's own choice of 'all-linear', which leaves out the heads of classifiers.
        include_all_linear_layers(config, model)
        shares, limits = {}, {}
        for found in linear_paths(model):
            path = found.removesuffix(".base_layer")
            if not self._check_target_module_exists(config, path):
                continue
            layer = model.get_submodule(path)
            if not isinstance(layer, LamdaLinear):
                layer = self.new_layer(layer, path)
            limits[path] = min(layer.in_features, layer.out_features)
            if limits[path] < config.rank:
                raise SettingError(
                    f"rank = {config.rank} is above the smaller side of {path}, {limits[path]}"
                )
            weight = layer.get_base_weight()
            # Without weights, as when only counting, all spectra are alike.
            meta = weight.device.type == "meta"
            exact = config.svd == "exact"
            shares[path] = 0.5 if meta else energy_share(weight, config.rank, exact=exact)
        return allocate_ranks(shares, limits, config.rank) if shares else {}

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if self.training and torch.is_grad_enabled() and self._passes < _PASSES:
            self._passes += 1
            if self._passes == _PASSES:
                self._warn_if_nothing_freezes()
        with super()._enable_peft_forward_hooks(*args, **kwargs):
            yield

    def _warn_if_nothing_freezes(self) -> None:
        for layer, name in lamda_layers(self):
            if layer.freeze_share[name] is not None and not layer.freezing:
                warnings.warn(
                    "LaMDA learns without its callback, so no column of B will freeze: give the "
                    "trainer callbacks=[FreezeColumns()] (gossamer.methods.lamda.model), or set "
                    "freeze_share=None",
                    stacklevel=2,
                )
                return

    def add_to_layer(self, layer: Any, adapter_name: str, config: LamdaConfig, path: str) -> None:
        rank = config.rank_pattern.get(path, config.rank)
        # An adapter that is only to be used is loaded next, so its start need not be worked out.
        layer.update_layer(adapter_name, config, rank, not config.inference_mode)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: Any, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Splits B of each layer into frozen and free columns as it was when it was saved."""
        for path, layer in model.named_modules():
            if not isinstance(layer, LamdaLinear) or adapter_name not in layer.lamda_S:
                continue
            for prefix in ("", PREFIX):
                saved = state_dict.get(f"{prefix}{path}.lamda_frozen")
                if saved is not None:
                    _resplit(layer, adapter_name, saved.shape[1])
        remapped: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        return remapped


def _resplit(layer: LamdaLinear, adapter_name: str, count: int) -> None:
    """Give the two parts of B the shapes they have with `count` frozen columns."""
    parameter, rank = layer.lamda_B[adapter_name], layer.lamda_S[adapter_name].shape[0]
    rows = parameter.shape[0]
    layer.lamda_frozen[adapter_name] = parameter.data.new_zeros(rows, count)
    # The same parameter: an optimizer may hold it already.
    parameter.data = parameter.data.new_zeros(rows, rank - count)


register_tuner(PEFT_TYPE, LamdaConfig, LamdaModel, LamdaModel.prefix)
