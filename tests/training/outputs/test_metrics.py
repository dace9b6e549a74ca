"""`metrics.jsonl` survives kills and resumes."""

import time

from gossamer.training.outputs.metrics import (
    FILE,
    MetricsFile,
    eval_records,
    read_metrics,
    train_records,
    truncate_metrics,
)


def write(folder, *records):
    metrics = MetricsFile(folder)
    for record in records:
        metrics.write(record)
    metrics.close()


def test_lines_are_there_as_soon_as_written(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics.write({"step": 1, "loss": 2.5})
    (record,) = read_metrics(tmp_path)
    assert (record["step"], record["loss"]) == (1, 2.5)
    metrics.close()


def test_steps_and_evaluations_are_told_apart(tmp_path):
    write(tmp_path, {"step": 0, "eval_loss": 3.0}, {"step": 1, "loss": 2.5})
    records = read_metrics(tmp_path)
    assert [r["step"] for r in train_records(records)] == [1]
    assert [r["step"] for r in eval_records(records)] == [0]


def test_truncation_drops_later_steps_and_a_line_cut_by_a_kill(tmp_path):
    write(tmp_path, *({"step": step, "loss": 1.0 / step} for step in range(1, 6)))
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 6, "lo')
    truncate_metrics(tmp_path, 3)
    write(tmp_path, {"step": 4, "loss": 9.0})
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert read_metrics(tmp_path)[-1]["loss"] == 9.0
    truncate_metrics(tmp_path, -1)
    assert read_metrics(tmp_path) == []


def test_each_line_says_when_it_was_written(tmp_path):
    before = time.time()
    write(tmp_path, {"step": 0, "eval_loss": 3.0}, {"step": 1, "loss": 2.5})
    times = [record["time"] for record in read_metrics(tmp_path)]
    assert before - 0.001 <= times[0] <= times[1] <= time.time() + 0.001
