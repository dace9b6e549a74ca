"""Reading files: every format gives the same rows; what is wrong is said with file and line."""

import csv
import json

import psutil
import pyarrow
import pyarrow.parquet
import pytest

from gossamer.errors import DataError

ROWS = [
    {"prompt": "one, two?", "completion": "three"},
    {"prompt": "naïve \u2028 line", "completion": 'He said "no".\nTwice.'},
]


def write_all(tmp_path, write):
    """The same rows in each format."""
    columns = ["prompt", "completion"]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(ROWS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    return [
        write("\n".join(lines)),
        write("\ufeff" + "\r\n\r\n".join(lines) + "\r\n\n", "windows.jsonl"),
        write(json.dumps(ROWS, indent=2), "rows.json"),
        write("\n".join(lines), "lines.JSON"),
        write(b"\xef\xbb\xbf" + (tmp_path / "rows.csv").read_bytes(), "bom.csv"),
        str(tmp_path / "rows.csv"),
        str(tmp_path / "rows.parquet"),
    ]


def test_all_formats_give_the_same_examples(tmp_path, write, load, tokenizer):
    first, *others = write_all(tmp_path, write)
    expected = load(first)
    assert "naïve \u2028 line" in tokenizer.decode(expected.train[1].input_ids)
    for path in others:
        data = load(path)
        assert data.train == expected.train, path
        assert (data.report.rows_read, data.report.rows_used) == (2, 2), path


def test_conversations_in_csv_and_parquet(tmp_path, write, load):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    expected = load(write([{"messages": talk}])).train
    with (tmp_path / "talk.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["messages"], [json.dumps(talk)]])
    # Parquet gives each message all keys, null where it has none.
    table = pyarrow.Table.from_pylist([{"messages": [{**m, "tool_calls": None} for m in talk]}])
    pyarrow.parquet.write_table(table, tmp_path / "talk.parquet")
    assert load(str(tmp_path / "talk.csv")).train == expected
    assert load(str(tmp_path / "talk.parquet")).train == expected


def test_long_csv_fields(write, load):
    long = "word " * 40_000
    data = load(write(f'prompt,completion\n"{long}",yes\nshort,no\n', "long.csv"), max_length=64)
    assert (data.report.dropped, data.report.rows_used) == (1, 1)
    assert csv.field_size_limit() == 131072


GOOD = '{"text": "fine"}\n'

BROKEN = {
    "invalid-json": ("a.jsonl", GOOD + "\n{'text': 1}\n", r"a\.jsonl, line 3: invalid JSON at col"),
    "cut-off": ("a.jsonl", GOOD + '{"text": "fi', r"line 2: invalid JSON at column 10: Untermin"),
    "not-object": ("a.jsonl", GOOD + '["x"]\n', r"line 2: must be a JSON object, got list \['x'\]"),
    "not-utf8": (
        "a.jsonl",
        GOOD.encode() + b'{"text": "\xe9"}',
        r"line 2: not UTF-8: byte 0xe9 at",
    ),
    "utf16": ("a.jsonl", GOOD.encode("utf-16"), r"line 1: not UTF-8: byte 0xff at byte 1; save"),
    "deep": ("a.jsonl", "[" * 100_000, r"line 1: invalid JSON: nested too deeply"),
    "long-number": ("a.jsonl", '{"text": ' + "1" * 5000 + "}", r"line 1: .* a number is too long"),
    "json-array": ("a.json", '[{"text": "a"},\n {"text"}]', r"a\.json, line 2, column 9: invalid"),
    "json-row": ("a.json", '[{"text": "a"}, 5]', r"a\.json, row 2: must be a JSON object, got int"),
    "json-utf8": ("a.json", b'[\n"\xff"]', r"a\.json, line 2: not UTF-8: byte 0xff at byte 4"),
    "json-lines": ("a.json", GOOD + "{]", r"a\.json, line 2: invalid JSON"),
    "csv-short": (
        "a.csv",
        "prompt,completion\na,b\na\n",
        r"row 2: has 1 fields, but the header na",
    ),
    "csv-long": ("a.csv", "text\na, b\n", r"row 1: has 2 fields.*quote fields that hold commas"),
    "csv-quote": ("a.csv", 'text\n"abc', r"a\.csv, line 2: invalid CSV"),
    "csv-semicolon": (
        "a.csv",
        "prompt;completion\na;b\n",
        r"must be separated by commas, got 'pro",
    ),
    "csv-header": ("a.csv", "text\n", r"'.*a\.csv' has no rows"),
    "parquet": ("a.parquet", "nonsense", r"a\.parquet' is no Parquet file or damaged"),
    "empty": ("a.jsonl", "", r"a\.jsonl' is empty"),
    "blank": ("a.jsonl", "\n \r\n", r"a\.jsonl' has no rows"),
    "empty-array": ("a.json", "[]", r"a\.json' has no rows"),
    "ending": (
        "a.txt",
        "text",
        r"cannot read files ending in '\.txt'; known: \.jsonl, \.json, \.csv",
    ),
    "no-ending": ("rows", "text", r"cannot read files without an ending; known"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(case, write, load):
    name, content, message = BROKEN[case]
    with pytest.raises(DataError, match=message) as caught:
        load(write(content, name))
    assert "\n" not in str(caught.value)


def test_no_file_stays_open_after_an_error(write, load):
    path = write(GOOD + "{broken\n" + GOOD)
    with pytest.raises(DataError) as caught:
        load(path)
    # The error keeps the frames alive that it came through.
    assert caught.tb is not None
    assert path not in [file.path for file in psutil.Process().open_files()]


def test_missing_file_names_near_ones(tmp_path, write, load):
    write(GOOD, "training.jsonl")
    with pytest.raises(DataError, match=r"does not exist; did you mean '.*training\.jsonl'"):
        load(str(tmp_path / "trainning.jsonl"))
    with pytest.raises(DataError, match=r"does not exist; give a \.jsonl, \.json, \.csv or"):
        load(str(tmp_path / "quite-another-name.csv"))
    with pytest.raises(DataError, match=r"nor does the folder '.*nowhere'"):
        load(str(tmp_path / "nowhere" / "rows.jsonl"))
    with pytest.raises(DataError, match="name of the data file is empty"):
        load(" ")


def test_relative_name_in_an_existing_folder_is_no_hub_id(tmp_path, write, load, monkeypatch):
    write(GOOD, "rows.jsonl")
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(DataError, match=r"did you mean '.*rows\.jsonl'"):
        load(f"{tmp_path.name}/rows")


def test_folder_names_its_files(tmp_path, write, load):
    with pytest.raises(DataError, match="is a folder without data files"):
        load(str(tmp_path))
    write(GOOD, "train.jsonl")
    with pytest.raises(DataError, match=r"is a folder; give one file of it: train\.jsonl"):
        load(str(tmp_path))


def test_truncated_parquet(tmp_path, load):
    whole = tmp_path / "whole.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS * 500), whole)
    content = bytearray(whole.read_bytes())
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut\.parquet' is no Parquet file or damaged"):
        load(str(tmp_path / "cut.parquet"))
    content[10:60] = bytes(50)
    (tmp_path / "zeros.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"zeros\.parquet, after row 0: the file is damaged"):
        load(str(tmp_path / "zeros.parquet"))
