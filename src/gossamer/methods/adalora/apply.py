"""AdaLoRA through PEFT: configuration, the call in each step, the result as plain LoRA."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import AdaLoraConfig, TaskType
from transformers import TrainerCallback

from gossamer.adapters.kinds.low_rank import Factors
from gossamer.errors import SettingError
from gossamer.methods.adalora.state import Allocation
from gossamer.methods.low_rank_result import ADAPTER, float_copy, lora_layers
from gossamer.methods.model_parts import check_layers
from gossamer.methods.targets import resolve_targets


def adalora_config(
    model: Any, settings: Mapping[str, Any], *, first: int, last: int, total: int
) -> Any:
    """PEFT's config with phases of `first` and `last` of `total` steps; raises `SettingError`."""
    rank, initial = settings["rank"], settings["initial_rank"]
    if initial <= rank:
        raise SettingError(
            f"initial_rank {initial} must be more than rank {rank}: ranks are only taken away"
        )
    if first + last >= total:
        raise SettingError(
            f"first_share {settings['first_share']} and last_share {settings['last_share']} leave "
            f"none of the {total} steps to take ranks away; lower them"
        )
    check_layers(model, settings["layers"])
    return AdaLoraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_r=rank,
        init_r=initial,
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=resolve_targets(model, settings["target_modules"]),
        layers_to_transform=settings["layers"],
        tinit=first,
        tfinal=last,
        total_step=total,
        deltaT=settings["interval"],
        beta1=settings["sensitivity_average"],
        beta2=settings["uncertainty_average"],
        orth_reg_weight=settings["orthogonality"],
    )


class AllocateRanks(TrainerCallback):
    """Moves the budget after each optimizer step, while its gradients are still there."""

    def __init__(self, allocation: Allocation) -> None:
        self._allocation = allocation

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._allocation.step(state.global_step + 1)


def orthogonality(model: Any) -> torch.Tensor:
    """Mean over all factors of |P^T P - I| and |Q Q^T - I| (Frobenius): the paper's equation 4.

    PEFT adds it to the loss that the model returns, which TRL's trainer does not use.
    """
    terms = []
    for _, layer in lora_layers(model):
        a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        for gram in (a @ a.T, b.T @ b):
            terms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
    return torch.stack(terms).mean()


def kept_factors(model: Any) -> dict[str, Factors]:
    """The update of each layer as B A of the rank it was left with (1 at least), scale 1."""
    found = {}
    for path, layer in lora_layers(model):
        strength = float_copy(layer.lora_E[ADAPTER])
        kept = strength.flatten().nonzero().flatten()
        if not len(kept):
            kept = torch.zeros(1, dtype=torch.long)
        # PEFT divides by a rank that it keeps away from zero by as much.
        scale = layer.scaling[ADAPTER] / (float_copy(layer.ranknum[ADAPTER]) + 1e-5)
        a = float_copy(layer.lora_A[ADAPTER]) * strength
        b = float_copy(layer.lora_B[ADAPTER]) * scale
        found[path] = Factors(a=a[kept].contiguous(), b=b[:, kept].contiguous(), scale=1.0)
    return found
