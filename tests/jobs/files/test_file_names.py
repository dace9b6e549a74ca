"""What uploads may be called, and what they may be for."""

import unicodedata

import pytest

from gossamer.errors import JobError
from gossamer.jobs.files.names import check_name, check_purpose, plain_name


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("rows.jsonl", "rows.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\rows.csv", "rows.csv"),
        ("a/b/", "b"),
        ("a\x00b\n.jsonl", "ab.jsonl"),
        ("\u202egnp.jsonl", "gnp.jsonl"),
        (unicodedata.normalize("NFD", "näme.jsonl"), "n\u00e4me.jsonl"),
        (" rows.jsonl ", "rows.jsonl"),
        ("..", ""),
        (".", ""),
        ("/", ""),
        ("", ""),
        ("x" * 300 + ".jsonl", "x" * 249 + ".jsonl"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_label_is_the_last_part_without_what_cannot_be_printed(name, label):
    assert plain_name(name) == label


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.pkl", "", "..", "rows.jsonl.exe"])
def test_files_of_rows_need_an_ending_that_can_be_read(name):
    with pytest.raises(JobError) as caught:
        check_name(name, "fine-tune")
    assert caught.value.code == "invalid_file"


def test_other_files_may_have_any_name():
    assert check_name("notes.txt", "user_data") == "notes.txt"
    assert check_name("ROWS.JSONL", "evals") == "ROWS.JSONL"


@pytest.mark.parametrize(
    ("purpose", "code"),
    [("assistants", "unsupported_purpose"), ("x", "unsupported_purpose"), ("", "invalid_value")],
)
def test_other_purposes_are_refused_with_those_that_are_known(purpose, code):
    with pytest.raises(JobError, match="fine-tune, evals, user_data") as caught:
        check_purpose(purpose)
    assert (caught.value.code, caught.value.param) == (code, "purpose")
