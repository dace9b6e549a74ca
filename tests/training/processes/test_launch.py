"""Which process this is, and what a run of several plans."""

import pytest
from runs import quiet_tune, write_rows

from gossamer.errors import SettingError
from gossamer.training.outputs.run_folder import is_run
from gossamer.training.plan import RowOrder, make_plan
from gossamer.training.processes.launch import (
    launched_rank,
    launched_size,
    local_rank,
    with_launched_processes,
)
from gossamer.training.settings import RunSettings


@pytest.fixture
def started(monkeypatch):
    """Pretend that torchrun has started this process."""

    def start(*, rank, local, size):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(local))
        monkeypatch.setenv("WORLD_SIZE", str(size))

    return start


def settings(**changes):
    return RunSettings(model="m", data="d", output="o", **changes)


def test_a_process_that_was_started_alone():
    assert (launched_rank(), launched_size(), local_rank()) == (0, 1, 0)
    assert with_launched_processes(settings(processes=3)).processes == 3


def test_a_size_without_a_rank_is_no_launch(monkeypatch):
    # Some schedulers set it for everything that they start.
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched_size() == 1


def test_the_number_is_that_of_torchrun(started):
    started(rank=5, local=1, size=8)
    assert (launched_rank(), launched_size(), local_rank()) == (5, 8, 1)
    assert with_launched_processes(settings()).processes == 8
    assert with_launched_processes(settings(processes=8)).processes == 8
    with pytest.raises(SettingError, match="processes=2, but this run was started as 8 processes"):
        with_launched_processes(settings(processes=2))


def test_a_step_sees_the_rows_of_all_processes():
    alone = make_plan(settings(batch_size=6, gradient_accumulation=2, epochs=3), 50)
    shared = make_plan(settings(batch_size=2, gradient_accumulation=2, epochs=3, processes=3), 50)
    assert (shared.rows_per_step, shared.steps) == (alone.rows_per_step, alone.steps) == (12, 13)
    # The last step is filled up, so that every process has its share of it.
    assert (alone.num_samples, shared.num_samples) == (150, 156)
    assert list(RowOrder(shared, 0))[:150] == list(RowOrder(alone, 0))


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ({"method": "sparsegrad"}, "it chooses the entries that learn by the gradient of one"),
        ({"method": "lamda", "freeze_share": 0.5}, "columns that freeze leave the gradients"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_name(tiny_model, tmp_path, method, why):
    rows = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(SettingError, match=f"processes=2 cannot go with method .*{why}"):
        quiet_tune(tiny_model, rows, tmp_path / "out", processes=2, max_steps=2, **method)
    assert not is_run(tmp_path / "out")


def test_more_processes_than_gpus(tiny_model, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    rows = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(SettingError, match="processes=2, but torch sees 1 GPUs here"):
        quiet_tune(tiny_model, rows, tmp_path / "out", processes=2, device="cuda")
