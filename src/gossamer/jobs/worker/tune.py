"""Work of the kind `tune`: one run, from rows to an adapter."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from gossamer.adapters.inspect import digest
from gossamer.adapters.layout import CONFIG_FILE
from gossamer.jobs.exports import copy_folder, export_facts
from gossamer.jobs.kinds.export import folder_name
from gossamer.jobs.outcome import keep_figures
from gossamer.jobs.queue.needs import weights_bytes
from gossamer.jobs.store.attempts import JobOutcome
from gossamer.jobs.worker.surroundings import machine_name, num_threads
from gossamer.jobs.worker.task import KindOfWork
from gossamer.training.outputs.run_folder import is_run
from gossamer.training.outputs.run_record import FILE, read_config
from gossamer.training.settings import RunSettings


class TuneWork(KindOfWork):
    """Trains, or goes on from the last checkpoint, unless `run.yaml` says that this is done."""

    def carry_out(self) -> JobOutcome:
        from gossamer.training.run import run

        record = self.task.record
        self.task.enter()
        settings = RunSettings.parse(record.resolved["run"], where="job")
        pairs = (
            (record.training_file, settings.data),
            (record.validation_file, settings.eval_data),
        )
        self.task.link_rows({file_id: name for file_id, name in pairs if file_id and name})
        output = Path(settings.output)
        if not is_run(output):
            # A worker was killed before it had written what the run is.
            shutil.rmtree(output, ignore_errors=True)
        if _result(output) is None:
            run(
                settings,
                resume=is_run(output),
                overwrite=False,
                listener=self.task.listener(),
            )
        return self._success(output, settings)

    def ended(self) -> None:
        values, sections = read_config(self.task.job.run / FILE)
        result = sections["result"]
        self.task.store.speeds.add(
            machine_name(),
            self.task.record.model[:255],
            str(values["method"]),
            str(values["dtype"]),
            num_threads(),
            seconds_per_token=result["seconds"] / max(1, result["tokens"]),
        )

    def _success(self, output: Path, settings: RunSettings) -> JobOutcome:
        from gossamer.methods import NOT_SERVED

        result = _result(output) or {}
        # Of the method with its settings: those of some decide what the result is.
        is_served = settings.build_method().kind not in NOT_SERVED
        outcome = JobOutcome(
            trained_tokens=int(result["tokens"]),
            digest=digest(output) if is_served else "",
            bytes=weights_bytes(output),
            result_file=keep_figures(self.task.settings.folder, self.task.job),
        )
        return outcome if is_served else replace(outcome, result={"export": self._export(output)})

    def _export(self, output: Path) -> dict[str, Any]:
        """Give what the server cannot answer with a place where people find it."""
        record = self.task.record
        folder = self.task.settings.folder.export(record.id) / folder_name(record.name)
        copy_folder(output, folder)
        is_adapter = (folder / CONFIG_FILE).is_file()
        return export_facts(folder, "adapter for PEFT" if is_adapter else "whole model")


def _result(output: Path) -> dict[str, Any] | None:
    """The result of a run that is over."""
    return read_config(output / FILE)[1].get("result") if is_run(output) else None
