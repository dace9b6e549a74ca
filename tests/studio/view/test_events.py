"""Events of a job: rows and metrics merged, and places among them that miss nothing."""

from gossamer.jobs.store.records import JobEventRecord, JobRecord
from gossamer.studio.view.events import Cursor, merged
from gossamer.studio.view.lines import metrics_at, progress_of

JOB_ID = "ftjob-" + "a" * 24


def job(**changes):
    values = dict.fromkeys(JobRecord.__dataclass_fields__)
    values |= {"id": JOB_ID, "status": "running", "created": 100.0, "steps": 10, "attempt": 1}
    return JobRecord(**{**values, **changes})


def row(seq, created, message="x", **data):
    return JobEventRecord(
        job_id=JOB_ID, seq=seq, created=created, level="info", message=message, data=data or None
    )


def step(number, **more):
    line = {"step": number, "loss": 2.0 - number / 10, "seconds": 1.0, "tokens_per_second": 5.0}
    return {**line, **more}


def evaluation(number, **more):
    return {"step": number, "eval_loss": 3.0, "seconds": 0.5, **more}


ROWS = [row(1, 100.0), row(2, 101.0, attempt=1), row(3, 104.6, step=3)]
LINES = [evaluation(0), *(step(n) for n in range(1, 6))]


def ids(events):
    return [event.shown["id"].removeprefix(f"ftevent-{'a' * 24}-") for event in events]


def test_rows_and_lines_come_in_the_order_of_their_times():
    events = merged(job(), ROWS, LINES, Cursor())
    assert ids(events) == [
        *("1", "2", "eval-0", "step-1", "step-2", "step-3"),
        *("3", "step-4", "step-5"),
    ]
    said = merged(job(), ROWS, [step(1, time=100.5), step(2, time=200.0)], Cursor())
    assert ids(said) == ["1", "2", "step-1", "3", "step-2"]


def test_a_place_is_gone_on_from_without_gap_or_repeat():
    everything = merged(job(), ROWS, LINES, Cursor())
    for number, event in enumerate(everything, start=1):
        cursor = Cursor.parse(str(event.cursor))
        assert ids(merged(job(), ROWS, LINES, cursor)) == ids(everything)[number:]


def test_what_came_late_is_told_late_and_not_lost():
    """A row that is committed after a line was sent which was written later."""
    first = merged(job(), ROWS[:2], LINES, Cursor())
    assert ids(merged(job(), ROWS, LINES, first[-1].cursor)) == ["3"]


def test_a_resumed_run_repeats_nothing():
    """Its lines are cut and written again; their numbers mean the same steps."""
    seen = merged(job(), ROWS, LINES, Cursor())[-1].cursor
    assert merged(job(attempt=2), ROWS, LINES[:4], seen) == []
    assert ids(merged(job(attempt=2), ROWS, [*LINES, step(6)], seen)) == ["step-6"]


def test_metrics_have_openais_words_and_ours():
    events = merged(job(), [], [evaluation(0), step(1)], Cursor())
    assert events[0].shown["message"] == "Step 0/10: validation loss=3.00"
    assert events[0].shown["data"]["full_valid_loss"] == 3.0
    assert events[1].shown["message"] == "Step 1/10: training loss=1.90"
    assert events[1].shown["data"]["train_loss"] == 1.9
    assert {event.shown["type"] for event in events} == {"metrics"}


def test_a_place_is_read_from_nothing_else():
    for text in ("", "x", "1", "1.2.3", "-1.2", "1.2 ", "9" * 13 + ".1", "ftevent-x"):
        assert Cursor.parse(text) is None


def test_progress_counts_the_steps_that_are_left():
    shown = progress_of(job(), LINES)
    assert (shown["step"], shown["steps"], shown["seconds_left"]) == (5, 10, 5.0)
    assert (shown["train_loss"], shown["valid_loss"], shown["tokens_per_second"]) == (1.5, 3.0, 5.0)
    assert progress_of(job(status="succeeded"), LINES)["seconds_left"] is None
    nothing = progress_of(job(steps=None, reason="1 job before it"), [])
    assert (nothing["step"], nothing["train_loss"]) == (0, None)
    assert nothing["reason"] == "1 job before it"


def test_metrics_of_a_checkpoint_are_those_that_were_measured():
    assert metrics_at([step(3), evaluation(3)], 3) == {
        "step": 3,
        "train_loss": 1.7,
        "valid_loss": 3.0,
        "full_valid_loss": 3.0,
    }
    assert metrics_at([step(3)], 4) == {"step": 4}
