"""Runs a method of two stages in child processes that kill themselves around the boundary.

Usage: stage_kill_worker.py MODEL DATA OUTPUT. The undisturbed run goes to OUTPUT-whole. Prints the
number of children that were killed.
"""

import os
import signal
import sys

import torch

# A fork inherits no threads: there must be none to miss.
torch.set_num_threads(1)

from runs import quiet_tune  # noqa: E402
from staged import FIRST, Staged  # noqa: E402

from gossamer.methods import register  # noqa: E402
from gossamer.training.outputs.listener import Listener  # noqa: E402

SETTINGS = {
    "method": "staged",
    "rank": 2,
    "dropout": 0.2,
    "learning_rate": 3e-3,
    "batch_size": 2,
    "max_steps": 9,
    "save_every": 3,
    "eval_split": 4,
    "scheduler": "cosine",
}


class Killer(Listener):
    """Kills its process at an event: ("step", 5), ("saved", "step-5"), ("note", "stage 2") ..."""

    def __init__(self, kind, value):
        self._wanted = (kind, value)

    def _look(self, kind, value):
        if (kind, value) == self._wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    def step(self, record):
        self._look("step", record["step"])

    def evaluated(self, record):
        self._look("evaluated", (record["step"], record["stage"]))

    def saved(self, folder):
        self._look("saved", folder.name)

    def note(self, text):
        self._look("note", text[:7])


KILLS = [
    ("step", FIRST),
    ("saved", f"step-{FIRST}"),
    ("note", "stage 2"),
    ("evaluated", (FIRST, "half")),
]


def main(model, data, output):
    register(Staged)
    quiet_tune(model, data, f"{output}-whole", **SETTINGS)
    killed = 0
    for number, kill in enumerate([*KILLS, ("nothing", None)]):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                quiet_tune(
                    model, data, output, resume=number > 0, listener=Killer(*kill), **SETTINGS
                )
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"failed at {kill}"
    print(f"killed {killed} of {len(KILLS)}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
