"""Carries out a federated run in one process, from settings to run folder, without a network."""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gossamer.errors import one_line
from gossamer.federated.aggregation import find_aggregation
from gossamer.federated.check import check_method
from gossamer.federated.client import ClientReply, Learner
from gossamer.federated.export import export
from gossamer.federated.picture import draw_rounds
from gossamer.federated.record import (
    CLIENTS,
    FederatedResult,
    clear_federated,
    summarize_rounds,
)
from gossamer.federated.rows import HELD_OUT, share_rows
from gossamer.federated.schedule import Round, choose_clients, plan_rounds
from gossamer.federated.server import FederatedServer
from gossamer.federated.settings import FederatedSettings
from gossamer.federated.state import read_state, write_merged, write_state
from gossamer.training.arguments import check_resumable
from gossamer.training.data import load_data
from gossamer.training.outputs.checkpoint import (
    as_checkpoint_error,
    latest_checkpoint,
    prune_checkpoints,
    read_stage,
    write_checkpoint,
    write_stage,
)
from gossamer.training.outputs.metrics import MetricsFile, read_metrics, truncate_metrics
from gossamer.training.outputs.run_folder import LOSS_CURVE, check_free, make_run_folder, publish
from gossamer.training.outputs.run_record import (
    FILE,
    check_continues,
    read_config,
    recorded_facts,
    write_run_record,
)
from gossamer.training.plan import StagePlan, plan_stages
from gossamer.training.prepare import Prepared, prepare
from gossamer.training.quiet import quiet_libraries

Tell = Callable[[str], None]


def silent(line: str) -> None:
    """Keep the line."""


def simulate(
    settings: FederatedSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    tell: Tell = silent,
) -> FederatedResult:
    """Carry out the run of `settings`: all clients and the server in this process.

    The result is in the folder `output`: the adapter, `run.yaml`, the figures of each round in
    `metrics.jsonl`, the rows of each client. With `resume` it goes on after the last round that
    was saved, to the same figures. `tell` gets lines for people. A client that fails is left out
    of its round, which says why. Raises a `GossamerError` with one clear line.
    """
    output = Path(settings.output)
    if resume:
        check_resumable(output)
    else:
        check_free(output, overwrite=overwrite)
    check_method(settings)
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="gossamer-rows-") as scratch:
        run = FederatedRun(settings, Path(scratch), tell)
        return run.carry_out(resume=resume)


class FederatedRun:
    """A run that is being carried out."""

    def __init__(self, settings: FederatedSettings, scratch: Path, tell: Tell) -> None:
        """Read and share out the rows, load the base model; `scratch` is for the rows' files."""
        self._tell = tell
        self._output = Path(settings.output)
        shared = share_rows(settings)
        self._files = shared.write(scratch)
        held_out = scratch / HELD_OUT
        self._prepared = self._prepare(settings, held_out if shared.held_out else None)
        self._rows = [self._load(path) for path in self._files]
        self._names = shared.names
        self.settings = settings.model_copy(
            update={
                name: getattr(self._prepared.settings, name)
                for name in ("learning_rate", "dtype", "device")
            }
        )
        self._recorded = {
            **recorded_facts(
                settings,
                base_fingerprint=self._prepared.context.base_fingerprint,
                learning_rate_source=self._prepared.recorded.get("learning_rate_source"),
                quantization=self._prepared.recorded.get("quantization"),
            ),
            "client_rows": {n: len(r) for n, r in zip(self._names, self._rows, strict=True)},
        }
        self._stages = stages_of(self._prepared, self.settings)
        self._plan = plan_rounds(
            self._stages,
            find_aggregation(settings.aggregation),
            scheduler=settings.scheduler,
        )
        self._learner = Learner(self._prepared, rounds=settings.rounds)
        self._server = FederatedServer(seed=settings.seed, ranks=settings.ranks)

    def carry_out(self, *, resume: bool) -> FederatedResult:
        """Take all rounds that are left, and leave the result."""
        checkpoint = self._resumed() if resume else None
        if not resume:
            make_run_folder(self._output)
            clear_federated(self._output)
            shutil.copytree(self._files[0].parent, self._output / CLIENTS, dirs_exist_ok=True)
        truncate_metrics(self._output, self._server.state.round if checkpoint else -1)
        write_run_record(self._output, self.settings, self._recorded)
        metrics = MetricsFile(self._output)
        try:
            if checkpoint is None:
                self._begin_stage()
                self._evaluate(0, metrics, wanted=self.settings.eval_at_start)
            for plan in self._plan[self._server.state.round :]:
                self._take(plan, metrics)
        finally:
            metrics.close()
        return self._finish()

    def _prepare(self, settings: FederatedSettings, held_out: Path | None) -> Prepared:
        changes: dict[str, Any] = {"data": str(self._files[0]), "eval_split": 0, "max_rows": None}
        if held_out is not None:
            changes["eval_data"] = str(held_out)
        return prepare(settings.model_copy(update=changes))

    def _load(self, path: Path) -> list[Any]:
        prepared = self._prepared
        settings = prepared.settings.model_copy(update={"data": str(path), "eval_data": None})
        return list(load_data(settings, prepared.tokenizer, seed=settings.seed).train)

    def _resumed(self) -> Path | None:
        """Go on from the last checkpoint, if there is one and the run is the same."""
        values, sections = read_config(self._output / FILE)
        before = FederatedSettings.parse(values, where=str(self._output / FILE))
        recorded = sections.get("recorded", {})
        check_continues(
            before, recorded, self.settings, self._recorded, finished="result" in sections
        )
        self._recorded = recorded
        checkpoint = latest_checkpoint(self._output)
        if checkpoint is None:
            return None
        with as_checkpoint_error(checkpoint):
            self._learner.resume(read_stage(checkpoint), checkpoint)
            self._server.state = read_state(checkpoint, self._output)
            self._learner.add_to_base(self._server.state.merged)
        self._tell(f"going on after round {self._server.state.round}")
        return checkpoint

    def _begin_stage(self) -> None:
        self._server.begin_stage(
            self._learner.tensors(), self._learner.fixed(), needs_start=self._learner.needs_start
        )

    def _take(self, plan: Round, metrics: MetricsFile) -> None:
        """Take one round."""
        began = time.perf_counter()
        if plan.begins_stage:
            self._learner.enter(plan.stage)
            self._begin_stage()
            report = self._learner.method.stage_report(plan.stage)
            numbers = {n: v for n, v in report.items() if not isinstance(v, Mapping)}
            told = "".join(f", {name} {value:.3g}" for name, value in numbers.items())
            self._tell(f"stage {plan.stage_name} begins with round {plan.number}{told}")
        clients = choose_clients(
            len(self._rows), self.settings.clients_per_round, plan.number, self.settings.seed
        )
        replies: dict[int, ClientReply] = {}
        failed: dict[str, str] = {}
        down = 0
        for client in clients:
            download = self._server.download(plan, client)
            down += download.bytes
            try:
                tensors = self._server.state.tensors
                replies[client] = self._learner.train(download.order, tensors, self._rows[client])
            except Exception as error:
                # What happens to one client is not to end the round of the others.
                failed[self._names[client]] = one_line(f"{type(error).__name__}: {error}")
                self._tell(f"round {plan.number}: client {self._names[client]} failed: {error}")
        figures = self._server.finish(plan, replies)
        state = self._server.state
        self._learner.load(state.tensors)
        self._learner.add_to_base(state.merged)
        write_merged(self._output, plan.number, state.merged[-1])
        record = {
            "step": plan.number,
            "stage": plan.stage_name,
            **figures,
            "clients": [self._names[client] for client in figures["clients"]],
            "down": down,
            "learning_rate": plan.learning_rate,
            "seconds": round(time.perf_counter() - began, 3),
            **({"failed": failed} if failed else {}),
        }
        metrics.write(record)
        every = self.settings.eval_every
        last = plan.number == self.settings.rounds
        wanted = last or (every is not None and plan.number % every == 0)
        loss = self._evaluate(plan.number, metrics, wanted=wanted)
        self._tell(_line(record, loss, self.settings.rounds))
        if last or plan.number % self.settings.save_every == 0:
            self._save(plan)

    def _evaluate(self, number: int, metrics: MetricsFile, *, wanted: bool) -> float | None:
        rows = self._prepared.data.eval
        if not rows or not wanted:
            return None
        loss = self._learner.evaluate(rows)
        metrics.write({"step": number, "eval_loss": loss})
        if number == 0:
            self._tell(f"held-out loss before the first round {loss:.4f}")
        return loss

    def _save(self, plan: Round) -> None:
        def fill(folder: Path) -> None:
            learner = self._learner
            learner.method.save(learner.model, folder, learner.context)
            write_state(folder, self._server.state)
            write_stage(folder, self._stages[plan.stage])

        write_checkpoint(self._output, plan.number, fill)
        prune_checkpoints(self._output, self.settings.save_total_limit)

    def _finish(self) -> FederatedResult:
        told: dict[str, float] = {}

        def write(folder: Path) -> None:
            told.update(
                export(
                    self._learner,
                    self._server.state.merged,
                    folder,
                    rank=self.settings.export_rank,
                )
            )

        files = publish(self._output, write)
        records = read_metrics(self._output)
        result = summarize_rounds(self._output, records, **told)
        name = f"{self.settings.method}, {self.settings.aggregation}"
        draw_rounds({name: records}, self._output / LOSS_CURVE)
        write_run_record(
            self._output, self.settings, self._recorded, {**result.as_record(), "files": files}
        )
        return result


def stages_of(prepared: Prepared, settings: FederatedSettings) -> tuple[StagePlan, ...]:
    """Plan the stages of the method, whose steps are rounds here."""
    context = replace(prepared.context, total_steps=settings.rounds)
    stages = prepared.method.stages(context)
    rated = settings.model_copy(update={"learning_rate": prepared.settings.learning_rate})
    return plan_stages(stages, rated, total=settings.rounds)


def _line(record: Mapping[str, Any], loss: float | None, rounds: int) -> str:
    parts = [
        f"round {record['step']}/{rounds}",
        f"loss {record['loss']:.4f}",
        *([] if loss is None else [f"held-out {loss:.4f}"]),
        f"{len(record['clients'])} clients",
        f"up {record['up']:,} B, down {record['down']:,} B",
        *([f"distance {record['distance']:.2e}"] if "distance" in record else []),
        f"{record['seconds']:.1f} s",
    ]
    return "  ".join(parts)
