"""From the settings of `sparse_lora` to its tuner, and the look at the first rows."""

from typing import Any

from peft import PeftModel, TaskType

from gossamer.methods.lora.apply import lora_config
from gossamer.methods.lora.config import LoraSettings
from gossamer.methods.method import MethodContext
from gossamer.methods.sparse_lora.config import SparseLoraConfig
from gossamer.methods.sparse_lora.export import shira_rank
from gossamer.methods.sparse_lora.layer import SparseLoraLinear
from gossamer.methods.sparse_lora.model import choose_entries
from gossamer.methods.sparse_lora.settings import SparseLoraSettings


def sparse_lora_config(model: Any, settings: SparseLoraSettings, *, seed: int) -> SparseLoraConfig:
    """The configuration for `model`, on the layers that LoRA would act on.

    Raises `SettingError` when a target or a layer number matches nothing.
    """
    targets = LoraSettings(target_modules=settings.target_modules, layers=settings.layers)
    like = lora_config(model, targets)
    return SparseLoraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=sorted(like.target_modules),
        layers_to_transform=like.layers_to_transform,
        r=settings.rank,
        lora_alpha=settings.alpha,
        density=settings.density,
        seed=seed,
    )


def check_exportable(model: PeftModel, density: float) -> None:
    """Raise `SettingError` now if the result could not be written in the end."""
    shapes = {p: m.shape for p, m in model.named_modules() if isinstance(m, SparseLoraLinear)}
    shira_rank(shapes, density)


def probe(model: PeftModel, context: MethodContext, count: int) -> None:
    """Choose the masks by the first `count` batches of the run."""
    if any(p.is_meta for p in model.parameters()):
        return
    choose_entries(model, lambda: context.probe_batches(count))
