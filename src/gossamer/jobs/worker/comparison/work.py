"""Work of the kind `compare`: a comparison, run by run, and a served adapter of each run."""

import json
import random
from pathlib import Path
from typing import Any

from gossamer.adapters.inspect import digest
from gossamer.adapters.layout import CONFIG_FILE
from gossamer.errors import DataError, TrainingError
from gossamer.files import write_whole
from gossamer.jobs.data_folder import model_place
from gossamer.jobs.exports import copy_folder
from gossamer.jobs.kinds.compare import run_folder
from gossamer.jobs.queue.needs import weights_bytes
from gossamer.jobs.store.attempts import JobOutcome, OutcomeModel
from gossamer.jobs.worker.comparison.news import ComparisonNews
from gossamer.jobs.worker.task import KindOfWork
from gossamer.training.comparison.results import Comparison
from gossamer.training.comparison.settings import CompareSettings
from gossamer.training.data.rows import BadRow
from gossamer.training.data.source import open_source
from gossamer.training.outputs.run_record import FILE, read_config
from gossamer.training.settings import assemble


class CompareWork(KindOfWork):
    """Trains what is not trained yet, each run in a process of its own."""

    def carry_out(self) -> JobOutcome:
        from gossamer.training.comparison.compare import run_comparison

        self.task.enter()
        resolved = self.task.record.resolved["compare"]
        settings = CompareSettings.parse(resolved["settings"], where="job")
        self._lay_out_rows(settings, resolved)
        news = ComparisonNews(self.task, settings)
        comparison = run_comparison(settings, news)
        news.complete()
        return self._outcome(comparison, resolved)

    def _lay_out_rows(self, settings: CompareSettings, resolved: dict[str, Any]) -> None:
        record = self.task.record
        if resolved["held_out"] is None:
            pairs = ((record.training_file, settings.data), (record.validation_file, settings.eval))
            self.task.link_rows({file_id: name for file_id, name in pairs if file_id})
            return
        self.task.link_rows({record.training_file: resolved["all_rows"]})
        if not Path(settings.eval).exists():
            skips = bool(settings.run.get("skip_bad_rows"))
            hold_out(resolved["all_rows"], settings, resolved["held_out"], skips_bad=skips)

    def _outcome(self, comparison: Comparison, resolved: dict[str, Any]) -> JobOutcome:
        runs = [run for entry in comparison.entries for run in entry.runs.values()]
        if not runs:
            reasons = [why for entry in comparison.entries for why in entry.failures.values()]
            raise TrainingError(f"no run came to its end; the first: {reasons[0]}")
        models = self._models(comparison, resolved)
        return JobOutcome(
            trained_tokens=sum(int(run["tokens"]) for run in runs),
            models=tuple(models.values()),
            result={"models": {folder: model.name for folder, model in models.items()}},
        )

    def _models(self, comparison: Comparison, resolved: dict[str, Any]) -> dict[str, OutcomeModel]:
        """Give each adapter that can be served a folder of its own; by the run's folder."""
        from gossamer.methods import NOT_SERVED

        folders = {entry["label"]: entry["folder"] for entry in resolved["entries"]}
        models = {}
        for entry in comparison.entries:
            for seed in entry.runs:
                run = run_folder(folders[entry.label], seed)
                source = comparison.output / "runs" / run
                # Settings of some methods decide what the result is.
                made = assemble(read_config(source / FILE)[0], {}, {}).build_method()
                if made.kind in NOT_SERVED or not (source / CONFIG_FILE).is_file():
                    continue
                name = resolved["names"][run]
                folder = self.task.job.models / name
                copy_folder(source, folder)
                models[run] = OutcomeModel(
                    name=name,
                    digest=digest(folder),
                    bytes=weights_bytes(folder),
                    folder=model_place(self.task.record.id, name),
                )
        return models


def hold_out(name: str, settings: CompareSettings, wanted: float, *, skips_bad: bool) -> None:
    """Divide the rows of the file `name` into those to train on and those to score on.

    `wanted` is a share below 1 or a number; the same rows are chosen each time. The rows to score
    on are written last, so that where they are, all is done. Raises `DataError`.
    """
    rows = []
    source = open_source(name)
    for row in source.rows:
        if not isinstance(row, BadRow):
            rows.append(json.dumps(row.values, ensure_ascii=False, default=str) + "\n")
        elif not skips_bad:
            raise DataError(f"{source.where(row.number)}: {row.reason}")
    count = int(wanted) if wanted >= 1 else max(1, round(len(rows) * wanted))
    if count >= len(rows):
        raise DataError(
            f"the file has {len(rows)} rows; to hold out {wanted:g} would leave none to train on"
        )
    chosen = set(random.Random(0).sample(range(len(rows)), count))
    write_whole(Path(settings.data), "".join(row for n, row in enumerate(rows) if n not in chosen))
    write_whole(Path(settings.eval), "".join(row for n, row in enumerate(rows) if n in chosen))
