"""What repeats in a file is found, and what it has in common with the file that is held out."""

import json

import pytest
from forms import add

from gossamer.errors import JobError
from gossamer.jobs.files import report as report_module
from gossamer.jobs.files.report import report_on, reports_on


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def pair(prompt, completion):
    return {"prompt": prompt, "completion": completion}


def write(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    return path


def test_rows_that_repeat_are_named_with_the_row_that_they_repeat(tmp_path):
    rows = lines(pair("Why?", "So."), {"prompt": 1}) + "\n"
    rows += lines(pair("Why?", "So."), pair("why", "SO"), pair("Why?", "No."))
    found = report_on(write(tmp_path, rows), "rows.jsonl")
    assert (found["duplicates"], found["near_duplicates"]) == (1, 1)
    # A blank line counts in the numbers of lines, and in no place.
    assert found["duplicate_rows"] == [{"row": 4, "at": 3, "of": 1}]
    assert found["near_duplicate_rows"] == [{"row": 5, "at": 4, "of": 1}]
    assert found["problems"][0]["at"] == 2


def test_answers_of_many_rows_and_who_speaks_are_told(tmp_path):
    rows = [pair(f"Question {n}?", "I cannot say.") for n in range(3)]
    rows += [pair(f"Other {n}?", f"Answer {n}.") for n in range(20)]
    found = report_on(write(tmp_path, lines(*rows)), "rows.jsonl")
    assert found["repeated_answers"] == [{"text": "I cannot say.", "rows": 3}]
    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    talks = [
        {"messages": [{"role": "system", "content": text}, user, answer, user, answer]}
        for text in ("Be kind.", "Be kind.", "Be brief.")
    ]
    found = report_on(write(tmp_path, lines(*talks)), "rows.jsonl")
    assert found["roles"] == {"system": 3, "user": 6, "assistant": 6}
    assert found["system_prompts"] == 2
    assert found["repeated_answers"] == [], "three rows are too few to repeat often"


def test_a_long_file_is_told_of_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "FIRST_ROWS", 2)
    monkeypatch.setattr(report_module, "REPORT_SECONDS", 0.0)
    path = write(tmp_path, lines(*[pair(f"p{n}", "c") for n in range(4)]))
    found = list(reports_on(path, "rows.jsonl"))
    assert [(each["rows"]["read"], each["complete"]) for each in found] == [
        (2, False),
        (3, False),
        (4, True),
    ]


def test_what_a_file_shares_with_the_held_out_one_is_found_once(files, monkeypatch):
    ours = add(files, lines(pair("A?", "1"), pair("B?", "2"), pair("C?", "3")).encode())
    held_out = add(files, lines(pair("b", "other"), pair("C?", "3"), pair("D?", "4")).encode())
    found = files.desk.overlap(ours, held_out)
    assert (found["rows"], found["prompts"]) == (1, 2)
    assert [each["row"] for each in found["listed"]] == [2, 3]
    monkeypatch.setattr(files.desk, "_ask", None)
    assert files.desk.overlap(ours, held_out) == found


def test_files_that_cannot_be_compared_say_why(files):
    with pytest.raises(JobError, match=r"cannot be compared: .* has the columns"):
        files.desk.overlap(add(files), add(files, b"oops\n"))
