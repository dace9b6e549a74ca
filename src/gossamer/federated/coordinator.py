"""The server's side of a run, whatever brings its messages to clients: stages, figures, files."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gossamer.federated.aggregation import find_aggregation
from gossamer.federated.client import ClientReply, Learner
from gossamer.federated.outputs.export import export
from gossamer.federated.outputs.picture import draw_rounds
from gossamer.federated.outputs.record import FederatedResult, clear_federated, summarize_rounds
from gossamer.federated.outputs.state import read_state, write_merged, write_state
from gossamer.federated.schedule import Round, plan_rounds
from gossamer.federated.server import Download, FederatedServer, Tell
from gossamer.federated.settings import FederatedSettings
from gossamer.training.outputs.checkpoint import (
    as_checkpoint_error,
    latest_checkpoint,
    prune_checkpoints,
    read_stage,
    write_checkpoint,
    write_stage,
)
from gossamer.training.outputs.metrics import MetricsFile, read_metrics, truncate_metrics
from gossamer.training.outputs.run_folder import LOSS_CURVE, make_run_folder, publish
from gossamer.training.outputs.run_record import (
    FILE,
    check_continues,
    read_config,
    recorded_facts,
    write_run_record,
)
from gossamer.training.plan import StagePlan, plan_stages
from gossamer.training.prepare import Prepared


class Coordinator:
    """Leads the rounds of a run: who asks clients hands it their replies."""

    def __init__(self, settings: FederatedSettings, prepared: Prepared, tell: Tell) -> None:
        """`prepared` is of the base model and the held-out rows; `settings` are the user's."""
        chosen = ("learning_rate", "dtype", "device")
        self.settings = settings.model_copy(
            update={name: getattr(prepared.settings, name) for name in chosen}
        )
        self.output = Path(settings.output)
        self.learner = Learner(prepared, rounds=settings.rounds)
        self.server = FederatedServer(
            seed=settings.seed, ranks=settings.ranks, uniform=settings.privacy != "none"
        )
        self._tell = tell
        self._held_out = prepared.data.eval
        self._stages = stages_of(prepared, self.settings)
        aggregation = find_aggregation(settings.aggregation)
        self.plan = plan_rounds(self._stages, aggregation, scheduler=settings.scheduler)
        self._recorded = recorded_facts(
            settings,
            base_fingerprint=prepared.context.base_fingerprint,
            learning_rate_source=prepared.recorded.get("learning_rate_source"),
            quantization=prepared.recorded.get("quantization"),
            left_out=prepared.recorded.get("left_out"),
        )
        self._client_rows: dict[str, int] = {}
        self._metrics: MetricsFile | None = None
        self._began = 0.0

    def begin(self, client_rows: Mapping[str, int], *, resume: bool) -> None:
        """Make the folder ready, and go on from its last checkpoint if that is asked for.

        `client_rows`: how many rows each client has. Raises `CheckpointError`.
        """
        self._client_rows = dict(client_rows)
        self._recorded["client_rows"] = dict(client_rows)
        goes_on = self._restore() if resume else False
        if not resume:
            make_run_folder(self.output)
            clear_federated(self.output)
        truncate_metrics(self.output, self.server.state.round if goes_on else -1)
        write_run_record(self.output, self.settings, self._recorded)
        self._metrics = MetricsFile(self.output)
        if not goes_on:
            self._begin_stage()
            if self.settings.eval_at_start:
                self._evaluate(0)

    def rounds_left(self) -> list[Round]:
        """Return the rounds that are to be taken yet."""
        return self.plan[self.server.state.round :]

    def begin_round(self, plan: Round) -> None:
        """Make ready for a round, and for the stage that begins with it."""
        self._began = time.perf_counter()
        if not plan.begins_stage:
            return
        self.learner.enter(plan.stage)
        self._begin_stage()
        report = self.learner.method.stage_report(plan.stage)
        numbers = {n: v for n, v in report.items() if not isinstance(v, Mapping)}
        told = "".join(f", {name} {value:.3g}" for name, value in numbers.items())
        self._tell(f"stage {plan.stage_name} begins with round {plan.number}{told}")

    def download(self, plan: Round, client: int, *, lost_all: bool = False) -> Download:
        """Say what a client is sent in a round; `lost_all`: all, since it has lost what it had."""
        return self.server.download(plan, client, lost_all=lost_all)

    def check_reply(self, plan: Round, client: int, reply: ClientReply, name: str) -> None:
        """Raise `TrainingError` unless the round can be made of the reply of the client `name`."""
        self.server.check(plan, client, reply, rows=self._client_rows.get(name))

    def finish_round(
        self,
        plan: Round,
        replies: Mapping[int, ClientReply],
        *,
        failed: Mapping[str, str],
        names: Mapping[int, str],
        figures: Mapping[str, Any],
    ) -> None:
        """Make one adapter of the replies, by client, and note it.

        `failed`: why clients did not answer, by name. `figures`: what else was measured.
        """
        found = self.server.finish(plan, replies)
        self.adopt()
        write_merged(self.output, plan.number, self.server.state.merged[-1])
        record = {
            "step": plan.number,
            "stage": plan.stage_name,
            **found,
            **figures,
            "clients": [names[client] for client in found["clients"]],
            "learning_rate": plan.learning_rate,
            "seconds": round(time.perf_counter() - self._began, 3),
            **({"failed": dict(failed)} if failed else {}),
        }
        self._write(record)

    def adopt(self) -> None:
        """Make the server's model hold what its state says."""
        state = self.server.state
        self.learner.load(state.tensors)
        self.learner.add_to_base(state.merged)

    def judge_round(self, plan: Round) -> None:
        """Evaluate what the round has left, tell of it, and save it, as often as was asked for."""
        every = self.settings.eval_every
        last = plan.number == self.settings.rounds
        wanted = last or (every is not None and plan.number % every == 0)
        loss = self._evaluate(plan.number) if wanted else None
        record = next(r for r in reversed(read_metrics(self.output)) if "up" in r)
        self._tell(_line(record, loss, self.settings.rounds))
        if last or plan.number % self.settings.save_every == 0:
            self._save(plan)

    def finish(self) -> FederatedResult:
        """Leave the result: the adapter, the picture, the record, in this order."""
        told: dict[str, float] = {}
        rank, merged = self.settings.export_rank, self.server.state.merged

        def write(folder: Path) -> None:
            told.update(export(self.learner, merged, folder, rank=rank))

        files = publish(self.output, write)
        records = read_metrics(self.output)
        result = summarize_rounds(self.output, records, **told)
        label = f"{self.settings.method}, {self.settings.aggregation}"
        draw_rounds({label: records}, self.output / LOSS_CURVE)
        write_run_record(
            self.output, self.settings, self._recorded, {**result.as_record(), "files": files}
        )
        return result

    def close(self) -> None:
        """Close the metrics."""
        if self._metrics is not None:
            self._metrics.close()

    def _restore(self) -> bool:
        """Go on from the last checkpoint, if there is one and the run is the same."""
        values, sections = read_config(self.output / FILE)
        before = FederatedSettings.parse(values, where=str(self.output / FILE))
        recorded = sections.get("recorded", {})
        check_continues(
            before, recorded, self.settings, self._recorded, finished="result" in sections
        )
        self._recorded = recorded
        checkpoint = latest_checkpoint(self.output)
        if checkpoint is None:
            return False
        with as_checkpoint_error(checkpoint):
            self.learner.resume(read_stage(checkpoint), checkpoint)
            self.server.state = read_state(checkpoint, self.output)
            self.learner.add_to_base(self.server.state.merged)
        self._tell(f"going on after round {self.server.state.round}")
        return True

    def _begin_stage(self) -> None:
        self.server.begin_stage(
            self.learner.tensors(), self.learner.fixed(), needs_start=self.learner.needs_start
        )

    def _evaluate(self, number: int) -> float | None:
        if not self._held_out:
            return None
        loss = self.learner.evaluate(self._held_out)
        self._write({"step": number, "eval_loss": loss})
        if number == 0:
            self._tell(f"held-out loss before the first round {loss:.4f}")
        return loss

    def _write(self, record: dict[str, Any]) -> None:
        assert self._metrics is not None, "begin comes first"
        self._metrics.write(record)

    def _save(self, plan: Round) -> None:
        def fill(folder: Path) -> None:
            self.learner.method.save(self.learner.model, folder, self.learner.context)
            write_state(folder, self.server.state)
            write_stage(folder, self._stages[plan.stage])

        write_checkpoint(self.output, plan.number, fill)
        prune_checkpoints(self.output, self.settings.save_total_limit)


def stages_of(prepared: Prepared, settings: FederatedSettings) -> tuple[StagePlan, ...]:
    """Plan the stages of the method, whose steps are rounds here."""
    context = replace(prepared.context, total_steps=settings.rounds)
    return plan_stages(prepared.method.stages(context), settings, total=settings.rounds)


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
