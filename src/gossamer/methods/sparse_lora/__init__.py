"""A low-rank update of which only the entries under a sparse mask act."""

from pathlib import Path
from typing import Any

from gossamer.methods.method import MethodContext
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register
from gossamer.methods.sparse_lora.settings import SparseLoraSettings


@register
class SparseLora(PeftMethod[SparseLoraSettings]):
    """W + M o (s B A): low-rank and sparse at once, M a fixed mask of about 1 % of each matrix.

    This is what popular articles describe as "SLoRA". The method of that name (`slora`, arXiv
    2308.06522) is another: sparse fine-tuning first, ordinary LoRA after. Neither is S-LoRA (arXiv
    2311.03285), a way of serving many adapters, nor SparseLoRA (arXiv 2506.16500), which computes
    less of the frozen base while LoRA learns.

    Learning rate: 1e-3, ours and not swept: there is no paper to take it from, and models of some
    hundred million parameters bear it with LoRA.
    """

    name = "sparse_lora"
    summary = "low-rank update seen through a sparse mask; about 1 % of each matrix changes"
    kind = "sparse"
    settings_type = SparseLoraSettings
    learning_rate = 1e-3
    size_setting = "rank"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.sparse_lora.apply import sparse_lora_config

        return sparse_lora_config(model, self.settings, seed=context.seed)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.sparse_lora.apply import check_exportable, probe

        model = super().prepare(model, context)
        check_exportable(model, self.settings.density)
        if self.settings.mask == "gradient":
            probe(model, context, self.settings.probe_batches)
        return model

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        from gossamer.methods.adapter_files import write_files
        from gossamer.methods.sparse_lora.export import as_shira

        config, weights = as_shira(model)
        write_files(
            folder,
            config.to_dict(),
            weights,
            base_name=context.model_name,
            base_fingerprint=context.base_fingerprint,
        )
