"""Work of the kind `export`: a merged model, or a plain LoRA, in the folder of exports."""

import shutil
from pathlib import Path

from gossamer.jobs.exports import export_facts
from gossamer.jobs.store.attempts import JobOutcome
from gossamer.jobs.worker.task import KindOfWork


class ExportWork(KindOfWork):
    """Does what `gossamer adapters merge` and `convert` do."""

    def carry_out(self) -> JobOutcome:
        wanted = self.task.record.resolved["export"]
        folder = self.task.settings.folder
        adapter = self.task.model_folder(wanted["model"])
        self.task.listener().announce(None, 0)
        exports = folder.export(self.task.record.id)
        output = exports / wanted["name"]
        if not output.is_dir():
            # Halves of a worker that was killed.
            shutil.rmtree(exports, ignore_errors=True)
            exports.mkdir(mode=0o700)
            self._write(adapter, output)
        what = "merged model" if wanted["format"] == "merged" else "LoRA adapter"
        return JobOutcome(result={"export": export_facts(output, what)})

    def _write(self, adapter: Path, output: Path) -> None:
        wanted = self.task.record.resolved["export"]
        if wanted["format"] == "merged":
            from gossamer.merging import merge_to_folder

            merge_to_folder(adapter, output, model=wanted["base"])
            return
        from gossamer.conversion.convert import convert_to_lora

        conversion = convert_to_lora(
            adapter,
            output,
            rank=wanted["rank"],
            max_error=wanted["max_error"],
            model=wanted["base"],
        )
        exactness = "exact" if conversion.exact else f"relative error {conversion.error:.2e}"
        self.task.listener().note(f"{len(conversion.modules)} layers as LoRA: {exactness}")
