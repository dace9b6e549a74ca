"""The process that says what jobs would take: `python -m gossamer.jobs.worker.estimate SHARE`.

A question is a line of JSON: the settings of a run, and a folder that has its data. The answer is a
line of JSON: the figures of a dry run, or `{"error": ..., "kind": ...}`. No model is loaded. It
ends with its input.
"""

import json
import os
import sys
from contextlib import redirect_stdout
from typing import Any

from gossamer.errors import DataError, GossamerError, one_line
from gossamer.jobs.queue.needs import disk_need
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.worker.surroundings import bound_memory, give_way, machine_name, num_threads
from gossamer.jobs.worker.time_guess import seconds_range
from gossamer.training.settings import RunSettings

_WEIGHT_BYTES = 4
"""Bytes of a weight in an adapter's file."""


def main(jobs_share: str) -> int:
    """Answer questions until no more come."""
    give_way(JobsSettings.parse({"jobs_share": jobs_share}))
    for line in sys.stdin:
        question = json.loads(line)
        bound_memory()
        os.chdir(question["folder"])
        with redirect_stdout(sys.stderr):
            answer = _answer(question["run"])
        os.chdir("/")
        print(json.dumps(answer), flush=True)
    return 0


def _answer(run: dict[str, Any]) -> dict[str, Any]:
    from gossamer.training.dry_run import dry_run

    try:
        settings = RunSettings.parse(run, where="training")
        found = dry_run(settings)
    except GossamerError as error:
        kind = "invalid_file" if isinstance(error, DataError) else "invalid_value"
        return {"error": str(error), "kind": kind}
    except MemoryError:
        reason = "to read the rows takes more memory than is free; split them, or set lazy_data"
        return {"error": reason, "kind": "unknown"}
    except Exception as error:
        # What the run itself will tell better.
        return {"error": one_line(f"{type(error).__name__}: {error}"), "kind": "unknown"}
    memory = max(found.memory, key=lambda stage: stage.total)
    last = found.memory[-1]
    adapter = _WEIGHT_BYTES * last.trainable
    guessed = None
    if found.settings.device == "cpu":
        guessed = seconds_range(
            settings.method,
            tokens=found.train_tokens * found.plan.epochs,
            weights=last.total_parameters,
            dtype=found.settings.dtype,
        )
    return {
        "rows": found.plan.num_rows,
        "eval_rows": found.eval_rows,
        "tokens": found.train_tokens,
        "steps": found.plan.steps,
        "epochs": found.plan.epochs,
        "trainable": last.trainable,
        "total": last.total_parameters,
        "adapter_bytes": adapter,
        "memory": memory.total,
        "memory_parts": {
            name: getattr(memory, name)
            for name in ("weights", "gradients", "optimizer", "activations", "process")
        },
        "disk": disk_need(
            rows=8 * found.train_tokens,
            trained_weights=max(stage.trainable for stage in found.memory),
            adapter=adapter,
            checkpoints=settings.save_total_limit,
        ),
        "seconds_range": guessed,
        "learning_rate": found.settings.learning_rate,
        "dtype": found.settings.dtype,
        "device": found.settings.device,
        "machine": machine_name(),
        "threads": num_threads(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
