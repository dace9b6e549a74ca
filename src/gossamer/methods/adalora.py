"""AdaLoRA: a budget of ranks that moves to the layers that need it (arXiv 2303.10512)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import AdaLoraConfig, TaskType
from transformers import TrainerCallback

from gossamer.adapters.kinds.low_rank import Factors
from gossamer.errors import SettingError
from gossamer.methods.common.files import read_learnt, write_learnt
from gossamer.methods.common.low_rank import ADAPTER, float_copy, lora_layers, write_factors
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.common.targets import check_layers, resolve_targets
from gossamer.methods.settings import AdaloraSettings

RANKS_FILE = "ranks.json"
_STATISTICS = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class Allocation:
    """PEFT's rank allocator of one model, which PEFT itself does not save."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._tuner = model.base_model
        self._allocator = self._tuner.rankallocator
        self._config = model.active_peft_config

    def step(self, steps_done: int) -> None:
        """Take the gradients of the step just done into account, and ranks away if it is time."""
        last = self._config.total_step - self._config.tfinal
        if steps_done == last and not self._allocator.ipt:
            # A run of one step: PEFT would allocate by statistics that it has not begun.
            self._allocator.update_ipt(self._tuner.model)
        self._tuner.update_and_allocate(steps_done)

    def write(self, folder: Path) -> None:
        """Write weights, statistics and ranks into `folder`."""
        more = {
            f"{kind}/{name}": value
            for kind in _STATISTICS
            for name, value in getattr(self._allocator, kind).items()
        }
        write_learnt(self._model, folder, more)
        (folder / RANKS_FILE).write_text(json.dumps(self._config.rank_pattern))

    def read(self, folder: Path) -> None:
        """Go on from what `write` wrote."""
        more = read_learnt(self._model, folder)
        parameters = dict(self._tuner.model.named_parameters())
        for kind in _STATISTICS:
            values = {k.partition("/")[2]: v for k, v in more.items() if k.startswith(f"{kind}/")}
            setattr(
                self._allocator,
                kind,
                {name: value.to(parameters[name].device) for name, value in values.items()},
            )
        self._config.rank_pattern = json.loads((folder / RANKS_FILE).read_text())


def adalora_config(
    model: Any, settings: Mapping[str, Any], *, first: int, last: int, total: int
) -> Any:
    """Make PEFT's config with `first` and `last` of `total` steps; raises `SettingError`."""
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
        # PEFT adds its own to the loss of a model that is told labels, which some versions of TRL's
        # trainer use and some do not: the method adds it instead, in all of them once.
        orth_reg_weight=0.0,
    )


class AllocateRanks(TrainerCallback):
    """Moves the budget after each optimizer step, while its gradients are still there."""

    def __init__(self, allocation: Allocation) -> None:
        self._allocation = allocation

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._allocation.step(state.global_step + 1)


def orthogonality(model: Any) -> torch.Tensor:
    """Compute the mean of |P^T P - I| and |Q Q^T - I| (Frobenius): the paper's equation 4."""
    terms = []
    for _, layer in lora_layers(model):
        a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        for gram in (a @ a.T, b.T @ b):
            terms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
    return torch.stack(terms).mean()


def kept_factors(model: Any) -> dict[str, Factors]:
    """Return each layer's update as B A of the rank it was left with (1 at least), scale 1."""
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


if TYPE_CHECKING:
    pass


class Adalora(PeftMethod[AdaloraSettings]):
    """y = W x + (alpha / initial_rank) P diag(l) Q x; the least important l become zero.

    Importance is the running mean of |weight * gradient| times its variation. The steps of the run
    are those of the schedule. The result is a plain LoRA adapter with a rank for each layer.
    """

    name = "adalora"
    kind = "low-rank"
    settings_type = AdaloraSettings
    last_step_because = (
        "it takes ranks away along the way, and what earlier steps leave has more than asked"
    )

    _allocation: "Allocation"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        settings = self.settings
        total = context.total_steps
        first, last = int(settings.first_share * total), int(settings.last_share * total)
        return adalora_config(model, settings.model_dump(), first=first, last=last, total=total)

    def depends_on_total(self) -> bool:
        return True

    def prepare(self, model: Any, context: MethodContext) -> Any:
        model = super().prepare(model, context)
        self._allocation = Allocation(model)
        return model

    def callbacks(self, context: MethodContext) -> list[Any]:
        return [AllocateRanks(self._allocation)]

    def regularizer(self, model: Any) -> Any:
        weight = self.settings.orthogonality
        return orthogonality(model) * weight if weight else None

    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        self._allocation.write(folder)

    def restore(self, model: Any, folder: Path) -> None:
        self._allocation.read(folder)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        write_factors(folder, kept_factors(model), context)
