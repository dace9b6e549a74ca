"""What is shown while a run goes on and when it is over."""

import io
from pathlib import Path

from rich.console import Console

from gossamer.training.outputs.listener import RunFacts
from gossamer.training.outputs.metrics import summarize
from gossamer.training.outputs.progress import LiveProgress, PlainProgress, duration, print_result
from gossamer.training.plan import RunPlan

FACTS = RunFacts(
    method="lora",
    model="a-model",
    plan=RunPlan(num_rows=100, steps=50, rows_per_step=8, num_samples=400, warmup_steps=2),
    data_lines=["rows.jsonl: 100 of 100 rows, format text"],
    trainable=1_000,
    total=50_000,
    dtype="float32",
    device="cpu",
    learning_rate=2e-4,
    eval_rows=0,
    resumed_from=0,
)


def record(step, loss=1.5):
    return {"step": step, "loss": loss, "tokens": 300, "seconds": 2.0}


def test_plain_lines_come_every_so_often_with_rate_and_remaining_time(capsys):
    screen = PlainProgress(log_every=20)
    screen.started(FACTS)
    for step in range(1, 51):
        screen.step(record(step))
    screen.evaluated({"step": 50, "eval_loss": 1.25})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lora on a-model: 1,000 of 50,000 parameters learn (2.00%)")
    assert "rows.jsonl: 100 of 100 rows, format text" in lines
    assert [line for line in lines if line.startswith("step")] == [
        "step 1/50  loss 1.5000  150 tokens/s  1 min 38 s left",
        "step 20/50  loss 1.5000  150 tokens/s  1 min 00 s left",
        "step 40/50  loss 1.5000  150 tokens/s  20 s left",
        "step 50/50  loss 1.5000  150 tokens/s  0 s left",
        "step 50/50  evaluation loss 1.2500",
    ]


def test_the_live_line_shows_step_loss_and_rate_and_leaves_no_trace():
    stream = io.StringIO()
    screen = LiveProgress(Console(file=stream, force_terminal=True, width=100))
    screen.started(FACTS)
    screen.step(record(7, loss=2.125))
    screen.evaluated({"step": 7, "eval_loss": 1.25})
    screen.saved(Path("run [1]/checkpoints/step-7"))
    screen.closed()
    shown = stream.getvalue()
    assert "step 7/50" in shown
    assert "loss 2.1250  150 tokens/s" in shown
    assert "step 7: evaluation loss 1.2500" in shown
    assert "saved run [1]/checkpoints/step-7" in shown


def test_a_screen_may_be_closed_before_it_started_and_twice():
    screen = LiveProgress(Console(file=io.StringIO(), force_terminal=True))
    screen.closed()
    screen.closed()


def test_the_end_table(tmp_path):
    records = [{"step": 0, "eval_loss": 3.0}, *(record(s, loss=4.0 / s) for s in (1, 2, 4))]
    records.append({"step": 4, "eval_loss": 1.5})
    result = summarize(tmp_path, records, trainable=10, total=1000, peak_memory=3 * 2**30)
    stream = io.StringIO()
    print_result(result, Console(file=stream, width=100))
    rows = {line[:26].strip(): line[26:].strip() for line in stream.getvalue().splitlines()}
    assert rows["trainable parameters"] == "10 (1.00% of all)"
    assert rows["training time"] == "6.0 s"
    assert rows["tokens per second"] == "150"
    assert rows["peak memory"] == "3.00 GiB"
    assert rows["training loss, last tenth"] == "1.0000"
    assert rows["evaluation loss before"] == "3.0000"
    assert rows["evaluation loss"] == "1.5000"


def test_durations():
    assert [duration(s) for s in (0.4, 59, 61, 3725)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "1 h 02 min",
    ]
