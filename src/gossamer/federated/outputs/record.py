"""What a federated run leaves beside its adapter: its result, and how all of it is cleared."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gossamer.federated.outputs.state import MERGED
from gossamer.federated.server import total_traffic
from gossamer.training.outputs.metrics import eval_records, train_records
from gossamer.training.outputs.run_folder import clear_run

CLIENTS = "clients"
"""The folder of the rows of each client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedResult:
    """A finished federated run, interruptions included in all figures."""

    output: Path
    """The folder with the adapter and all about it."""
    rounds: int
    train_loss: float
    """Mean training loss of the last round, clients weighed by their rows."""
    eval_loss_before: float | None
    """Loss on the held-out rows before the first round, nats per token; None: not evaluated."""
    eval_loss: float | None
    """Loss on the held-out rows after the last round."""
    bytes_up: int
    """Bytes of all values that clients sent."""
    bytes_down: int
    """Bytes of all values that the server sent."""
    seconds: float
    """Time of all rounds; loading and evaluation not included."""
    failures: int = 0
    """How often a client failed in a round."""
    export_rank: int | None = None
    """The highest rank of the adapter, where the base was added to; None: the method's."""
    export_error: float | None = None
    """What cutting to that rank left out, as a share of all; None: nothing was cut."""

    def as_record(self) -> dict[str, Any]:
        """Return plain values for `run.yaml`."""
        values = asdict(self)
        del values["output"]
        return values


def summarize_rounds(
    output: Path,
    records: Sequence[dict[str, Any]],
    *,
    export_rank: float | None = None,
    export_error: float | None = None,
) -> FederatedResult:
    """Compute the result of a run from its metrics; there is at least one round."""
    rounds, evals = train_records(list(records)), eval_records(list(records))
    losses = {record["step"]: record["eval_loss"] for record in evals}
    traffic = total_traffic(rounds)
    return FederatedResult(
        output=output,
        rounds=len(rounds),
        train_loss=rounds[-1]["loss"],
        eval_loss_before=losses.get(0),
        eval_loss=losses.get(rounds[-1]["step"]),
        bytes_up=traffic.up,
        bytes_down=traffic.down,
        seconds=round(sum(record["seconds"] for record in rounds), 2),
        failures=sum(len(record.get("failed", ())) for record in rounds),
        export_rank=None if export_rank is None else int(export_rank),
        export_error=export_error,
    )


def clear_federated(output: Path) -> None:
    """Remove a former run from `output`; files that it did not write stay."""
    clear_run(output)
    for folder in (CLIENTS, MERGED):
        shutil.rmtree(output / folder, ignore_errors=True)
