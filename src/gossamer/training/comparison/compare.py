"""Runs a comparison from settings to table and plots; `compare` is the Python call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gossamer.errors import GossamerError, StorageError, TrainingError
from gossamer.files import storing, write_whole
from gossamer.training.comparison.entries import Entry
from gossamer.training.comparison.folder import (
    BASE,
    CURVES,
    PLAN,
    RESULTS,
    SCORES,
    TABLE,
    JobFolder,
    Layout,
    check_facts,
    open_folder,
    read_facts,
    write_json,
)
from gossamer.training.comparison.jobs import Job, Kind
from gossamer.training.comparison.process import (
    ComparisonInterrupted,
    run_job,
    terminate_as_interrupt,
)
from gossamer.training.comparison.progress import ComparisonProgress
from gossamer.training.comparison.results import Comparison, EntryResult, document, percent
from gossamer.training.comparison.settings import CompareSettings
from gossamer.training.outputs.run_folder import make_run_folder


def compare(
    model: str | Path,
    data: str | Path,
    eval: str | Path,
    output: str | Path,
    *,
    methods: str | Sequence[str],
    screen: ComparisonProgress | None = None,
    **settings: Any,
) -> Comparison:
    """Train `model` on `data` with several `methods` and score the results on the rows of `eval`.

    The same as the command: `compare("smollm2-135m", "train.jsonl", "test.jsonl", "out",
    methods=["lora:rank=8", "full"], budget="steps=100", seeds=[0, 1])`. `settings` are those of a
    comparison by name. A run that fails is recorded with its reason, and the others go on. Asked
    again with the same settings, it goes on with what is missing. The progress display
    `ComparisonProgress(show=False)` shows nothing.

    Raises a `GossamerError` with one clear line for what concerns all methods, and
    `ComparisonInterrupted` (a `KeyboardInterrupt`) when stopped by Ctrl-C or SIGTERM.
    """
    names = [methods] if isinstance(methods, str) else list(methods)
    values = {"model": model, "data": data, "eval": eval, "output": output, "methods": names}
    return run_comparison(
        CompareSettings.parse({**values, **settings}, where="compare"),
        screen or ComparisonProgress(),
    )


def run_comparison(settings: CompareSettings, screen: ComparisonProgress) -> Comparison:
    """Carry out the comparison of `settings`; see `compare`."""
    settings.check()
    root = Path(settings.output)
    make_run_folder(root)
    lock = FileLock(root / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainingError(f"another comparison is at work in {root}") from None
    try:
        failing = f"cannot go on with the comparison in {root}"
        with storing(failing, then="the same command goes on from here"):
            open_folder(root, settings)
            with terminate_as_interrupt():
                return _Comparison(settings, Layout(root), screen).result()
    except KeyboardInterrupt:
        raise ComparisonInterrupted(root) from None
    finally:
        screen.closed()
        lock.release()


class _Comparison:
    """A comparison in progress: one job after another; what is done already is only read."""

    def __init__(
        self, settings: CompareSettings, layout: Layout, screen: ComparisonProgress
    ) -> None:
        self._settings, self._layout, self._screen = settings, layout, screen
        self._entries = settings.entries()
        self._seeds = settings.seeds
        self._base: dict[str, Any] = {}
        self._steps: dict[str, int] = {}

    def result(self) -> Comparison:
        if self._is_missing_something():
            self._work()
        self._base = self._layout.job(BASE).outcome() or {}
        comparison = self._collect()
        self._write(comparison)
        return comparison

    def _is_missing_something(self) -> bool:
        folders = [self._layout.job(BASE)]
        folders += [self._layout.training(e, seed) for e in self._entries for seed in self._seeds]
        return any(folder.outcome() is None for folder in folders)

    def _work(self) -> None:
        plan = self._plan()
        self._screen.begin("base model")
        base = self._run("base", self._layout.job(BASE))
        scoring = base["evaluation"]
        self._screen.end(_scored(scoring))
        self._screen.jobs(len(self._entries) * len(self._seeds), scoring=scoring["seconds"])
        for number, seed in enumerate(self._seeds):
            for place, entry in enumerate(self._entries):
                count = number * len(self._entries) + place + 1
                self._train(entry, seed, plan["entries"][entry.label], count)

    def _plan(self) -> dict[str, Any]:
        folder = self._layout.job(PLAN)
        # Data and base model may have changed since an earlier call.
        folder.forget()
        self._screen.begin("checking data and methods")
        plan = self._run("plan", folder)
        facts = plan["facts"]
        check_facts(self._layout.root, self._settings, facts)
        self._screen.end(
            f"{facts['train_rows']:,} rows to train on, {facts['eval_rows']:,} held out; "
            f"score: {facts['score']}"
        )
        return plan

    def _train(self, entry: Entry, seed: int, planned: dict[str, Any], count: int) -> None:
        folder = self._layout.training(entry, seed)
        total = len(self._entries) * len(self._seeds)
        which = f", seed {seed}" if len(self._seeds) > 1 else ""
        self._screen.begin(f"[{count}/{total}] {entry.label}{which}")
        was_done = folder.outcome() is not None
        try:
            if "refused" in planned:
                raise TrainingError(planned["refused"])
            method_settings = planned["method_settings"]
            steps = self._steps_in_time(entry, method_settings)
            outcome = self._run(
                "train",
                folder,
                label=entry.label,
                seed=seed,
                run_folder=str(self._layout.run(entry, seed)),
                method_settings=method_settings,
                steps=steps,
            )
        except StorageError:
            # The others would end like that too, each after its time of training.
            self._screen.end("failed")
            raise
        except GossamerError as error:
            folder.fail(str(error))
            self._screen.end(f"failed: {error}")
            return
        seconds = None if was_done else outcome["process_seconds"]
        self._screen.end(_scored(outcome["evaluation"]), seconds)

    def _steps_in_time(self, entry: Entry, method_settings: dict[str, Any]) -> int | None:
        """The steps that fit the budget's minutes by this method's speed; None: no such budget."""
        minutes = self._settings.limits().minutes
        if minutes is None:
            return None
        timed = self._run(
            "time",
            self._layout.timing(entry),
            label=entry.label,
            seed=self._seeds[0],
            method_settings=method_settings,
        )
        return max(1, int(60 * minutes / timed["step_seconds"]))

    def _run(self, kind: Kind, folder: JobFolder, **more: Any) -> dict[str, Any]:
        job = Job(kind=kind, settings=self._settings.model_dump(mode="json"), **more)
        return run_job(job, folder, self._screen.hear)

    def _collect(self) -> Comparison:
        evaluation = self._base["evaluation"]
        return Comparison(
            output=self._layout.root,
            score=evaluation["score"],
            base=evaluation,
            entries=[self._entry_result(entry) for entry in self._entries],
            facts=read_facts(self._layout.root),
            settings=self._settings.model_dump(mode="json"),
        )

    def _entry_result(self, entry: Entry) -> EntryResult:
        folders = {seed: self._layout.training(entry, seed) for seed in self._seeds}
        outcomes = {seed: folder.outcome() for seed, folder in folders.items()}
        failures = {seed: folder.failure() for seed, folder in folders.items()}
        return EntryResult(
            label=entry.label,
            method=entry.method,
            rates_of=entry.rates_of,
            runs={seed: found for seed, found in outcomes.items() if found is not None},
            failures={
                seed: why
                for seed, why in failures.items()
                if why is not None and outcomes[seed] is None
            },
        )

    def _write(self, comparison: Comparison) -> None:
        """Write results, plots and table, in this order."""
        from gossamer.training.comparison.plots import draw_curves, draw_scores

        root = self._layout.root
        write_json(root / RESULTS, comparison.as_record())
        draw_scores(comparison, root / SCORES)
        draw_curves(comparison, self._layout, self._entries, root / CURVES)
        write_whole(root / TABLE, document(comparison))


def _scored(evaluation: dict[str, Any]) -> str:
    loss = f"held-out loss {evaluation['loss']:.4f}"
    if evaluation["right"] is None:
        return loss
    right = f"{evaluation['right']} of {evaluation['rows']} right"
    return f"{right} ({percent(evaluation['value'])}), {loss}"
