"""A run leaves out the same rows in each of its attempts, and says which."""

import json

import pytest
import yaml
from runs import TINY, quiet_tune, step_losses

from gossamer.errors import CheckpointError
from gossamer.training.outputs.listener import Listener

RUN = {"max_steps": 6, "save_every": 2, "leave_out": ["near-duplicates"], **TINY}


class StopAfter(Listener):
    """Ends a run as a kill does, without a word."""

    def __init__(self, step):
        self._step = step

    def step(self, record):
        if record["step"] == self._step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    rows = [{"prompt": f"What is {n % 9}?", "completion": f"It is {n % 9}."} for n in range(12)]
    rows.insert(5, {"prompt": "what IS 0", "completion": "It is... 0!"})
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_resumed_run_leaves_out_what_it_began_without(tiny_model, rows, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    quiet_tune(tiny_model, rows, whole, **RUN)
    with pytest.raises(KeyboardInterrupt):
        quiet_tune(tiny_model, rows, broken, listener=StopAfter(3), **RUN)
    with pytest.raises(CheckpointError, match="leave_out"):
        quiet_tune(output=broken, resume=True, leave_out=[])
    quiet_tune(output=broken, resume=True)
    assert step_losses(broken) == step_losses(whole)
    recorded = yaml.safe_load((broken / "run.yaml").read_text())["recorded"]
    assert recorded["left_out"] == {"near-duplicates": "6, 11-13"}
