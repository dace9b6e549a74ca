"""The work of a comparison's processes; each job is named by its kind."""

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gossamer.machine import fit_threads
from gossamer.training.comparison.folder import JobFolder, read_json, write_json
from gossamer.training.comparison.settings import CompareSettings
from gossamer.training.outputs.checkpoint import FOLDER as CHECKPOINTS

Kind = Literal["plan", "base", "time", "train"]
Tell = Callable[[dict[str, Any]], None]
TIMED_STEPS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The order that a worker gets."""

    kind: Kind
    settings: dict[str, Any]
    """The comparison's settings."""
    label: str = ""
    """The label of the entry to train."""
    seed: int = 0
    run_folder: str = ""
    method_settings: dict[str, Any] | None = None
    steps: int | None = None
    """Optimizer steps; None: as many as the settings say."""

    def write(self, folder: JobFolder) -> None:
        """Write the job where its worker reads it."""
        folder.path.mkdir(parents=True, exist_ok=True)
        write_json(folder.job, asdict(self))


def carry_out(job: Job, folder: JobFolder, tell: Tell) -> dict[str, Any]:
    """Do `job` and return its result. Raises what `tune` raises."""
    from gossamer.training.quiet import quiet_libraries

    settings = CompareSettings.parse(job.settings, where="comparison")
    fit_threads()
    with quiet_libraries():
        return _KINDS[job.kind](job, settings, folder, tell)


def _plan(job: Job, settings: CompareSettings, folder: JobFolder, tell: Tell) -> dict[str, Any]:
    from gossamer.training.comparison.plan import make_comparison_plan

    return make_comparison_plan(settings)


def _base(job: Job, settings: CompareSettings, folder: JobFolder, tell: Tell) -> dict[str, Any]:
    """Score the base model itself."""
    import torch

    from gossamer.basemodel.find import resolve
    from gossamer.basemodel.load import load_model
    from gossamer.training.comparison.plan import scoring_settings
    from gossamer.training.comparison.scoring import Scoring
    from gossamer.training.loop.device import choose_device, choose_dtype

    run = scoring_settings(settings)
    device = choose_device(run.device)
    dtype = choose_dtype(run.dtype, device)
    model = load_model(resolve(settings.model), dtype=getattr(torch, dtype), device=device)
    evaluation = Scoring(settings, run, folder, tell).score(model, dtype)
    return {"evaluation": evaluation}


def _train(job: Job, settings: CompareSettings, folder: JobFolder, tell: Tell) -> dict[str, Any]:
    """Train, or go on with training, and score. The checkpoints go when all is done."""
    from gossamer.training.comparison.scoring import Scoring, ScoringListener
    from gossamer.training.outputs.metrics import read_metrics, train_records
    from gossamer.training.outputs.run_folder import is_run
    from gossamer.training.outputs.run_record import FILE, read_config
    from gossamer.training.run import run

    began = time.monotonic()
    settings_of_run = _run_settings(job, settings)
    output = Path(job.run_folder)
    resume = is_run(output)
    if not resume:
        for leftover in (folder.progress, folder.evaluation, folder.memory):
            leftover.unlink(missing_ok=True)
    result = read_config(output / FILE)[1].get("result") if resume else None
    if result is None:
        scoring = Scoring(settings, settings_of_run, folder, tell)
        listener = ScoringListener(scoring, folder, tell)
        run(settings_of_run, resume=resume, overwrite=False, listener=listener)
        result = read_config(output / FILE)[1]["result"]
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
    final, _ = read_config(output / FILE)
    seconds = [record["seconds"] for record in train_records(read_metrics(output))]
    figures = ("trainable", "total", "steps", "train_loss", "seconds", "tokens")
    return {
        **{name: result[name] for name in figures},
        "peak_memory": (read_json(folder.memory) or {})["peak_memory"],
        "median_step_seconds": statistics.median(seconds),
        "learning_rate": final["learning_rate"],
        "method_settings": final["method_settings"],
        "evaluation": read_json(folder.evaluation),
        "process_seconds": round(time.monotonic() - began, 1),
    }


def _time(job: Job, settings: CompareSettings, folder: JobFolder, tell: Tell) -> dict[str, Any]:
    """Measure the seconds of a step in a short run that is thrown away."""
    from gossamer.training.outputs.listener import Listener
    from gossamer.training.outputs.metrics import read_metrics, train_records
    from gossamer.training.run import run

    scratch = folder.path / "run"
    shutil.rmtree(scratch, ignore_errors=True)
    values: dict[str, Any] = {
        "output": str(scratch),
        "max_steps": TIMED_STEPS,
        "save_every": TIMED_STEPS,
    }
    tell({"event": "started", "steps": TIMED_STEPS, "at": 0})
    asked = _run_settings(job, settings)
    values["method_settings"] = {
        **asked.method_settings,
        **asked.build_method().to_be_timed(TIMED_STEPS),
    }
    run(
        asked.model_copy(update=values),
        resume=False,
        overwrite=False,
        listener=Listener(),
    )
    # The first step also warms up caches and allocators.
    seconds = [record["seconds"] for record in train_records(read_metrics(scratch))][1:]
    shutil.rmtree(scratch)
    return {"step_seconds": statistics.mean(seconds)}


def _run_settings(job: Job, settings: CompareSettings) -> Any:
    entry = next(entry for entry in settings.entries() if entry.label == job.label)
    return settings.run_settings(
        entry,
        seed=job.seed,
        output=job.run_folder,
        method_settings=job.method_settings,
        steps=job.steps,
    )


_KINDS: dict[str, Callable[[Job, CompareSettings, JobFolder, Tell], dict[str, Any]]] = {
    "plan": _plan,
    "base": _base,
    "time": _time,
    "train": _train,
}
