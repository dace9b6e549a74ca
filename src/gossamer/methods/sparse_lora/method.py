"""A low-rank update of which only the entries under a mask act."""

from pathlib import Path
from typing import Any

from peft import PeftModel, TaskType

from gossamer.basemodel.quantize import quantization_of
from gossamer.methods.common.files import write_files
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.lora import lora_config
from gossamer.methods.settings import LoraSettings
from gossamer.methods.sparse_lora.config import SparseLoraConfig
from gossamer.methods.sparse_lora.export import as_shira, shira_rank
from gossamer.methods.sparse_lora.layer import SparseLoraLinear
from gossamer.methods.sparse_lora.model import choose_entries
from gossamer.methods.sparse_lora.settings import SparseLoraSettings


def sparse_lora_config(model: Any, settings: SparseLoraSettings, *, seed: int) -> SparseLoraConfig:
    """Make the configuration for `model`, on the layers that LoRA would act on.

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
    choose_entries(
        model,
        lambda: context.probe_batches(count),
        checkpointing=context.gradient_checkpointing,
    )


class SparseLora(PeftMethod[SparseLoraSettings]):
    """W + M o (s B A): low-rank and sparse at once, M a fixed mask of about 1 % of each matrix.

    This is what popular articles describe as "SLoRA". The method of that name (`slora`, arXiv
    2308.06522) is another: sparse fine-tuning first, ordinary LoRA after. Neither is S-LoRA (arXiv
    2311.03285), a way of serving many adapters, nor SparseLoRA (arXiv 2506.16500), which computes
    less of the frozen base while LoRA learns.
    """

    name = "sparse_lora"
    kind = "sparse"
    settings_type = SparseLoraSettings
    size_setting = "rank"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return sparse_lora_config(model, self.settings, seed=context.seed)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        model = super().prepare(model, context)
        check_exportable(model, self.settings.density)
        if self.settings.mask == "gradient":
            probe(model, context, self.settings.probe_batches)
        return model

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        config, weights = as_shira(model)
        write_files(
            folder,
            config.to_dict(),
            weights,
            base_name=context.model_name,
            base_fingerprint=context.base_fingerprint,
            quantization=quantization_of(model.get_base_model().config),
        )
