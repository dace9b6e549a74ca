"""Small runs on the tiny model, for the tests of this folder and of the command."""

import json
from pathlib import Path
from unittest.mock import patch

from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import read_metrics, train_records
from gossamer.training.run import tune

TINY = {"rank": 4, "learning_rate": 3e-3, "batch_size": 4}
"""A run of few milliseconds a step."""


def write_rows(path: Path, count: int = 24) -> Path:
    """Questions that a model can learn to answer."""
    rows = [{"prompt": f"What is {i} + 1?", "completion": f"It is {i + 1}."} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def quiet_tune(*arguments, **settings):
    """`tune` that shows and draws nothing, and computes in float32 whatever this CPU has units for.

    The picture would take as long as many steps.
    """
    settings.setdefault("listener", Listener())
    settings.setdefault("dtype", "float32")
    with patch("gossamer.training.run.draw_loss_curve"):
        return tune(*arguments, **settings)


def step_losses(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of each line in the metrics file, in the order of the file."""
    return [(record["step"], record["loss"]) for record in train_records(read_metrics(folder))]
