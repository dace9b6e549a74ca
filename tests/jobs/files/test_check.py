"""What is found in a file of rows, and that no file can hurt but the process that reads it."""

import json
import time

import pytest
from forms import ROWS, add

from gossamer.jobs.files.desk import Desk
from gossamer.jobs.files.report import report_on

PAIR = {"prompt": "a", "completion": "b"}


def lines(*rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture
def report(tmp_path):
    def report(content, ending=".jsonl"):
        path = tmp_path / f"rows{ending}"
        path.write_bytes(content)
        return report_on(path, f"rows{ending}")

    return report


def test_rows_are_counted_and_the_first_bad_ones_named(report):
    found = report(lines(PAIR, PAIR, {**PAIR, "extra": 1}) + b"[1]\n" + lines({"prompt": "x"}))
    assert found["rows"] == {"read": 5, "used": 3, "bad": 2}
    assert (found["format"], found["unit"], found["complete"]) == (
        "prompt-completion",
        "line",
        True,
    )
    assert found["duplicates"] == 2, "columns that are not read make no difference"
    assert found["ignored_columns"] == ["extra"]
    assert [problem["row"] for problem in found["problems"]] == [4, 5]
    assert "'completion' is missing" in found["problems"][1]["reason"]
    assert "error" not in found


@pytest.mark.parametrize(
    ("content", "ending", "reason"),
    [
        (b"", ".jsonl", "is empty"),
        (b"\n \n", ".jsonl", "has no rows"),
        (b"hello\n", ".jsonl", "line 1: invalid JSON"),
        (b"\xff\xfe\n", ".jsonl", "line 1: not UTF-8"),
        (b'{"prompt": "a"' + b"[" * 100_000, ".jsonl", "line 1: invalid JSON"),
        (b"[" * 100_000, ".json", "nested too deeply"),
        (lines({"question": "a", "answer": "b"}), ".jsonl", "Did you mean to rename"),
        (lines({"prompt": "", "completion": ""}), ".jsonl", "no row of the 1 can be used"),
        (
            lines({"input": {}, "preferred_output": [], "non_preferred_output": []}),
            ".jsonl",
            "chosen",
        ),
        (lines({f"c{n}": 1 for n in range(2000)}), ".jsonl", "more than 1000 columns"),
        (b"not parquet", ".parquet", "no Parquet file"),
        (b'a,b\n"' + b"x" * 100, ".csv", "invalid CSV"),
        (b"prompt;completion\na;b\n", ".csv", "separated by commas"),
        (b'{"prompt": "\x00", "completion": "b"}', ".jsonl", "invalid JSON"),
        (b'{"prompt": NaN, "completion": "b"}', ".jsonl", "must be a string, got float nan"),
        (lines({f"c{n}": 1 for n in range(10_000)}), ".jsonl", "more than 1000 columns"),
        (b"x" * 2**20, ".jsonl", "line 1: invalid JSON"),
        (b"\xef\xbb\xbf", ".jsonl", "has no rows"),
        (b"\r\n" * 3, ".jsonl", "has no rows"),
        (b"\x00" * 1000, ".jsonl", "line 1: invalid JSON"),
        (b"\x00" * 1000, ".csv", "has no rows"),
    ],
)
def test_a_file_of_which_nothing_can_be_used_has_one_reason(report, content, ending, reason):
    error = report(content, ending)["error"]
    assert reason in error
    assert "\n" not in error


def test_rows_with_the_former_functions_are_bad_rows(report):
    message = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}
    found = report(lines({"messages": message}, {"messages": message, "functions": [{}]}))
    assert found["rows"]["bad"] == 1
    assert "'functions' is not learnt from" in found["problems"][0]["reason"]


def test_rows_with_tools_are_good_rows(report):
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    found = report(lines({"messages": messages, "tools": tools}))
    assert found["rows"] == {"read": 1, "used": 1, "bad": 0}
    assert found["ignored_columns"] == []


def test_windows_line_ends_and_a_mark_of_byte_order_are_read(report):
    content = b"\xef\xbb\xbf" + ROWS.replace(b"\n", b"\r\n")
    assert report(content)["rows"] == {"read": 2, "used": 2, "bad": 0}


# The process.


@pytest.fixture
def desk(files):
    files.desk.start()
    yield files.desk
    files.desk.close()


def wait_for(store, file):
    deadline = time.monotonic() + 60
    while (found := store.files.get("a", file.id)).status == "uploaded":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_files_are_checked_as_they_come_and_jobs_hear_of_it(files, store, desk):
    good = add(files)
    bad = add(files, b"hello")
    some = add(files, ROWS + b"oops\n")
    notes = add(files, b"hello", name="notes.txt", fields=[("purpose", "user_data")])
    assert wait_for(store, good).status_details is None
    assert wait_for(store, bad).status == "error"
    assert "line 1: invalid JSON" in wait_for(store, bad).status_details
    some = wait_for(store, some)
    assert some.status == "processed"
    assert some.status_details.startswith("1 of 3 rows cannot be used; the first is line 3")
    assert wait_for(store, notes).status == "processed"
    assert desk.report(good)["rows"]["used"] == 2
    assert desk.report(notes) is None


def test_the_report_of_another_tenants_bytes_tells_no_name(files, store, desk):
    wait_for(store, add(files, b"hello", name="secret.jsonl"))
    other = add(files, b"hello", name="mine.jsonl", tenant="a")
    assert "secret" not in wait_for(store, other).status_details


def test_the_same_bytes_under_another_ending_are_read_in_another_way(files, store, desk):
    rows = add(files, b"prompt,completion\na,b\n", name="rows.jsonl")
    table = add(files, b"prompt,completion\na,b\n", name="rows.csv")
    assert wait_for(store, rows).status == "error"
    assert wait_for(store, table).status == "processed"


def test_a_file_that_takes_too_long_or_too_much_is_refused(files, store, tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + b",".join([b'{"prompt": "a"}'] * 2_000_000) + b"]")
    late = Desk(store, files.blobs, max_seconds=0)
    assert "within 0 s" in late.check(path, "file.json")["error"]
    small = Desk(store, files.blobs, max_bytes=300 * 2**20)
    assert "too much memory" in small.check(path, "file.json")["error"]
