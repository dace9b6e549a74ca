"""Runs a training again and again in child processes and kills them at random moments.

Usage: kill_worker.py MODEL DATA OUTPUT KILLS SEED. The children are forks of this process, which
has everything imported, so that each starts at once. Prints the number of children that were
killed while training had begun and was not over.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

# A fork inherits no threads: there must be none to miss.
torch.set_num_threads(1)

from runs import quiet_tune  # noqa: E402

SETTINGS = {
    "rank": 4,
    "dropout": 0.2,
    "learning_rate": 3e-3,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "save_every": 3,
    "eval_every": 7,
    "eval_split": 4,
    "scheduler": "cosine",
    "seed": 11,
}


def spawn(model: str, data: str, output: str, *, steps: int, resume: bool) -> int:
    """Start a child that trains, from the start or from the last checkpoint; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        quiet_tune(model, data, output, resume=resume, max_steps=steps, **SETTINGS)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for_chance(child: int, output: str, chance: random.Random) -> None:
    """Return at a random moment of the child's life: while it loads, or some steps on."""
    metrics = Path(output) / "metrics.jsonl"
    lines = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    target = lines + chance.randint(0, 6)
    while True:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        if metrics.exists() and len(metrics.read_text().splitlines()) >= target:
            break
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.05))


def main(model: str, data: str, output: str, kills: int, seed: int) -> None:
    # The undisturbed run, which also imports everything.
    steps = 8 * (kills + 1)
    quiet_tune(model, data, f"{output}-whole", max_steps=steps, **SETTINGS)
    chance = random.Random(seed)
    killed = 0
    while killed < kills:
        record = Path(output) / "run.yaml"
        child = spawn(model, data, output, steps=steps, resume=record.exists())
        wait_for_chance(child, output, chance)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "a child failed by itself"
            break
        killed += record.exists()
    else:
        _, status = os.waitpid(spawn(model, data, output, steps=steps, resume=True), 0)
        assert status == 0, "the last child failed"
    print(f"killed {killed}")


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]))
