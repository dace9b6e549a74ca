"""Small federated runs on the tiny model, for the tests of this folder."""

import json
from pathlib import Path

from runs import write_rows
from safetensors.torch import load_file
from torch.testing import assert_close

from gossamer.federated.run import simulate
from gossamer.federated.server import silent
from gossamer.federated.settings import FederatedSettings
from gossamer.training.outputs.metrics import read_metrics, train_records

FEW = {
    "rounds": 2,
    "max_steps": 2,
    "batch_size": 4,
    "learning_rate": 3e-3,
    "dtype": "float32",
}
LOW_RANK = {"rank": 4, "target_modules": ["q_proj", "v_proj"]}


def write_kinds(path: Path) -> Path:
    """48 rows of three kinds."""
    write_rows(path, count=48)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [{**line, "kind": f"kind-{number % 3}"} for number, line in enumerate(lines)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def settings_of(base, rows, output, *, method_settings=LOW_RANK, **settings):
    """Settings of a run that is judged by the rows that it learns."""
    values = {**FEW, "eval_data": str(rows), **settings}
    return FederatedSettings.parse(
        {
            "model": str(base),
            "data": str(rows),
            "output": str(output),
            "method_settings": method_settings,
            **values,
        }
    )


def federate(base, rows, output, *, resume=False, tell=silent, **settings):
    """Carry out a run in this process."""
    return simulate(settings_of(base, rows, output, **settings), resume=resume, tell=tell)


def weights(folder) -> dict:
    """The tensors of an adapter."""
    return load_file(Path(folder) / "adapter_model.safetensors")


def check_same(one, other) -> None:
    """Compare the adapters of two finished runs."""
    for name, tensor in weights(one.output).items():
        assert_close(weights(other.output)[name], tensor, rtol=1e-5, atol=1e-6)


def rounds_of(run) -> list[dict]:
    """The records of the rounds of a finished run."""
    return train_records(read_metrics(run.output))
