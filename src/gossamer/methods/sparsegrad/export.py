"""What a run of SparseGrad leaves behind, and its checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, ShiraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from gossamer.methods.common.files import write_adapter, write_model
from gossamer.methods.common.method import MethodContext
from gossamer.methods.sparsegrad.model import mapped_back, sparsegrad_layers

STATE_FILE = "sparsegrad.safetensors"


def save_state(model: Any, folder: Path) -> None:
    """Write the transformed weights and the bases, as they are."""
    state: dict[str, Tensor] = {}
    for path, layer in sparsegrad_layers(model).items():
        name = path.rpartition(".")[2]
        state[f"{path}.weight"] = layer.weight.detach()
        state[f"basis.{name}.u"] = layer.basis.u
        state[f"basis.{name}.v"] = layer.basis.v
    save_file({key: t.contiguous() for key, t in state.items()}, folder / STATE_FILE)


def restore_state(model: Any, folder: Path) -> None:
    """Read what `save_state` wrote into the model."""
    state = load_file(folder / STATE_FILE)
    with torch.no_grad():
        for path, layer in sparsegrad_layers(model).items():
            name = path.rpartition(".")[2]
            layer.weight.copy_(state[f"{path}.weight"])
            layer.basis.u.copy_(state[f"basis.{name}.u"])
            layer.basis.v.copy_(state[f"basis.{name}.v"])


def export_model(model: Any, folder: Path, context: MethodContext) -> None:
    """Write the whole model, its weights in the ordinary basis."""
    with mapped_back(model) as plain:
        write_model(plain, folder, context)


def export_adapter(
    model: Any, folder: Path, context: MethodContext, *, form: str, error: float
) -> None:
    """Write the change of each weight as a LoRA ("low-rank") or SHiRA ("sparse") adapter.

    It is the smallest whose relative error (Frobenius) is at most `error` for every weight. The
    base weights are read from the context's folder, in the type in which the run began with them:
    how that rounds them has not been learnt.
    """
    dtype = getattr(torch, context.dtype)
    base = AutoModelForCausalLM.from_pretrained(context.base_folder, dtype=dtype).float()
    changes = {
        path: layer.basis.leave(layer.weight.detach()).cpu() - base.get_submodule(path).weight.data
        for path, layer in sparsegrad_layers(model).items()
    }
    adapted = (_low_rank if form == "low-rank" else _sparse)(base, changes, error)
    write_adapter(
        adapted,
        folder,
        base_name=context.model_name,
        base_fingerprint=context.base_fingerprint,
    )


def _low_rank(base: Any, changes: dict[str, Tensor], error: float) -> Any:
    parts = {path: torch.linalg.svd(c, full_matrices=False) for path, c in changes.items()}
    ranks = {path: _needed(s.square(), error) for path, (_, s, _) in parts.items()}
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=ranks,
        target_modules=sorted(changes),
    )
    model = get_peft_model(base, config)
    for path, (left, sizes, right) in parts.items():
        layer, rank = model.base_model.model.get_submodule(path), ranks[path]
        layer.lora_B["default"].weight.data = (left[:, :rank] * sizes[:rank]).contiguous()
        layer.lora_A["default"].weight.data = right[:rank].contiguous()
    return model


def _sparse(base: Any, changes: dict[str, Tensor], error: float) -> Any:
    # SHiRA counts entries in units of in + out, the same number of units for all layers.
    units = 1
    for change in changes.values():
        squares = change.flatten().square().sort(descending=True).values
        units = max(units, -(-_needed(squares, error) // sum(change.shape)))
    units = min([units, *(c.numel() // sum(c.shape) for c in changes.values())])
    config = ShiraConfig(task_type=TaskType.CAUSAL_LM, r=units, target_modules=sorted(changes))
    weights = {id(base.get_submodule(path)): change for path, change in changes.items()}
    config.mask_fn = _largest_mask(weights)
    model = get_peft_model(base, config)
    for path, change in changes.items():
        layer = model.base_model.model.get_submodule(path)
        rows, columns = layer.shira_indices["default"].long()
        layer.shira_weight["default"].data = change[rows, columns]
    return model


def _largest_mask(changes: dict[int, Tensor]) -> Callable[..., Tensor]:
    def mask(layer: Any, r: int, **options: Any) -> Tensor:
        change = changes[id(layer)]
        places = change.flatten().abs().topk(r * sum(change.shape)).indices
        found = torch.zeros(change.numel())
        found[places] = 1
        return found.view(change.shape)

    return mask


def _needed(squares: Tensor, error: float) -> int:
    """How many of the largest of `squares` (falling) must stay: at least one."""
    # Summed from the small end, where float32 would lose them.
    left_out = squares.double().flip(0).cumsum(0).flip(0)
    return max(1, int((left_out > error**2 * left_out[0]).sum()))
