"""Columns of B freeze in the course of a run, those of the largest singular values first."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from gossamer.errors import SettingError, TrainingError


def frozen_columns(rank: int, step: int, total: int, share: float | None) -> int:
    """Count the columns, of `rank`, that are frozen after `step` of `total` optimizer steps.

    floor(r t / (share T)), all of them from the step share T on (arXiv 2406.12832).
    """
    if share is None:
        return 0
    return min(rank, int(rank * step / (share * total) + 1e-9))


class FreezeColumns(TrainerCallback):
    """For transformers' `Trainer` and what derives from it: freezes columns after each step.

    Frozen columns leave the parameter and the optimizer's state, so neither momentum nor weight
    decay can move them. Raises `SettingError` where several processes train: their gradient buckets
    have fixed sizes.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        layers = list(lamda_layers(kwargs["model"]))
        several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        if several and any(layer.freeze_share[name] is not None for layer, name in layers):
            raise SettingError(
                "freeze_share: columns cannot freeze while several processes train; set "
                "freeze_share to null or train in one process"
            )
        for layer, _ in layers:
            layer.freezing = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        for layer, name in lamda_layers(kwargs["model"]):
            rank = layer.lamda_S[name].shape[0]
            share = layer.freeze_share[name]
            count = frozen_columns(rank, state.global_step, state.max_steps, share)
            freeze_columns(layer, name, count, optimizer)


def lamda_layers(model: Any) -> Any:
    """Go through the pairs of a layer and the name of an adapter that learns on it."""
    for module in model.modules():
        if hasattr(module, "lamda_S") and hasattr(module, "freeze_share"):
            for name in module.active_adapters:
                if name in module.lamda_S:
                    yield module, name


def freeze_columns(layer: Any, name: str, count: int, optimizer: Any = None) -> None:
    """Freeze the first `count` columns of B of the adapter `name`; those frozen stay so.

    A parameter of the remaining columns takes the place of the former one, in the layer and in the
    optimizer with its state. Raises `TrainingError` if the optimizer keeps something other than
    numbers or one value per weight (Adafactor, 8-bit Adam).
    """
    old = layer.lamda_B[name]
    more = count - layer.lamda_frozen[name].shape[1]
    if more <= 0:
        return
    new = nn.Parameter(_columns(old.data, more), requires_grad=old.requires_grad)
    if optimizer is not None:
        # accelerate wraps the optimizer.
        _replace_in(getattr(optimizer, "optimizer", optimizer), old, new, more)
    layer.lamda_frozen[name] = torch.cat((layer.lamda_frozen[name], old.data[:, :more]), 1)
    layer.lamda_B[name] = new


def _replace_in(optimizer: Any, old: Tensor, new: Tensor, more: int) -> None:
    state = dict(optimizer.state.get(old, {}))
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() > 0:
            if value.shape != old.shape:
                raise TrainingError(
                    f"lamda cannot freeze columns under this optimizer, whose '{key}' is of shape "
                    f"{list(value.shape)}; use AdamW or SGD, or set freeze_share to null"
                )
            state[key] = _columns(value, more)
    if optimizer.state.pop(old, None) is not None and new.numel():
        optimizer.state[new] = state
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]


def _columns(value: Tensor, start: int) -> Tensor:
    """The columns from `start` on, in memory of their own."""
    return value[:, start:].clone(memory_format=torch.contiguous_format)
