"""Rows of a file by their place, as the model sees them: `python -m` this module.

Questions come as lines of JSON on the standard input, each is answered by a line on the standard
output, in their order, until the input ends. The tokenizer is loaded once; what a file does it does
to this process, whose memory is limited and whose time is watched by who asks.
"""

import json
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from gossamer.jobs.files.check import limit_process

FIRST_ROWS = 1000
"""Rows whose columns tell the format."""
MAX_SHOWN = 4000
"""Characters of a row that are shown."""
MAX_KEPT = 8
"""Files whose formats and lines are known."""
_NO_TIME_LIMIT = 2**31

Shown = dict[str, Any]


def main() -> int:
    """Answer questions until there are no more."""
    first = json.loads(sys.stdin.readline())
    # Before the limits, which let nothing be written; nothing of a stranger's is read yet.
    from gossamer.basemodel.load import load_tokenizer
    from gossamer.errors import GossamerError, one_line

    try:
        reader = RowReader(load_tokenizer(Path(first["model"])))
    except GossamerError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 0
    limit_process(first["max_bytes"], _NO_TIME_LIMIT)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = reader.read(**question)
        except (GossamerError, OSError) as error:
            answer = {"error": one_line(str(error))}
        except MemoryError:
            answer = {"error": "the file needs too much memory to be read"}
        print(json.dumps(answer), flush=True)
    return 0


class RowReader:
    """Reads rows of files and shows them by one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._files: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def read(self, path: str, name: str, start: int, count: int, train_on: str) -> Shown:
        """Show up to `count` rows of the file `path`, called `name`, from the place `start` on.

        Places count rows from 1, blank lines not; `row` is the number that errors call a row by.
        `parts` are its stretches of text, learnt or not (a preference has `rejected` too); a row
        that cannot be used has its `problem` and its text. Raises `GossamerError`.
        """
        from gossamer.training.data.encode import ExampleEncoder
        from gossamer.training.data.render import Renderer, require_template
        from gossamer.training.data.settings import DataSettings

        file = self._file(path, name)
        if file.format != "text":
            require_template(self._tokenizer)
        settings = DataSettings.parse({"data": name, "train_on": train_on}, where="rows")
        renderer, encoder = Renderer(self._tokenizer, settings), ExampleEncoder(self._tokenizer)
        found = list(file.rows(start, count + 1))
        shown = [
            {"at": at, **self._show(row, file.format, renderer, encoder)}
            for at, row in enumerate(found[:count], start=start)
        ]
        return {"data": shown, "unit": file.unit, "has_more": len(found) > count}

    def _show(self, row: Any, fmt: str, renderer: Any, encoder: Any) -> Shown:
        from gossamer.training.data.check import check_row
        from gossamer.training.data.rows import BadRow, RowProblem

        if isinstance(row, BadRow):
            return {"row": row.number, "problem": row.reason, "parts": [], "tokens": None}
        try:
            sides = renderer.render_sides(check_row(row.values, fmt))
        except RowProblem as problem:
            text = _cut(json.dumps(row.values, default=str, ensure_ascii=False))
            parts = [{"text": text, "learnt": False}]
            return {"row": row.number, "problem": str(problem), "parts": parts, "tokens": None}
        examples = encoder.encode(list(sides))
        shown: Shown = {
            "row": row.number,
            "problem": None,
            "parts": self._parts(examples[0]),
            "tokens": max(len(example.input_ids) for example in examples),
            "learnt": sum(example.trained_tokens for example in examples),
        }
        if len(examples) > 1:
            shown["rejected"] = self._parts(examples[1])
        return shown

    def _parts(self, example: Any) -> list[Shown]:
        """The text of an example in stretches that are learnt or not, cut where it gets long."""
        from gossamer.training.data.encode import NO_LOSS

        pairs = zip(example.input_ids, example.labels, strict=True)
        parts, room = [], MAX_SHOWN
        for learnt, tokens in groupby(pairs, key=lambda pair: pair[1] != NO_LOSS):
            ids = [token for token, _ in tokens]
            text = self._tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            parts.append({"text": _cut(text, room), "learnt": learnt})
            room -= len(text)
            if room <= 0:
                break
        return parts

    def _file(self, path: str, name: str) -> "_File":
        file = self._files.get((path, name)) or _File(Path(path), name)
        self._files[path, name] = file
        self._files.move_to_end((path, name))
        while len(self._files) > MAX_KEPT:
            self._files.popitem(last=False)
        return file


class _File:
    """A file whose rows can be had by their places."""

    def __init__(self, path: Path, name: str) -> None:
        from gossamer.jobs.files.report import open_rows
        from gossamer.training.data.formats import detect_format
        from gossamer.training.data.lazy import JsonLines
        from gossamer.training.data.rows import Row

        self._path, self._name = path, name
        source = open_rows(path, name)
        with closing(source.rows) as stream:
            first = [row for row in islice(stream, FIRST_ROWS) if isinstance(row, Row)]
        columns = list(dict.fromkeys(column for row in first for column in row.values))
        self.unit = source.unit
        self.format = detect_format(columns, "auto", name)
        self._lines = JsonLines(name, path, None) if name.endswith(".jsonl") else None

    def rows(self, start: int, count: int) -> Iterator[Any]:
        """Up to `count` rows from the place `start` on, which counts from 1."""
        from gossamer.jobs.files.report import open_rows

        if self._lines is not None:
            for index in range(start - 1, min(start - 1 + count, len(self._lines))):
                yield self._lines.raw(index)
            return
        with closing(open_rows(self._path, self._name).rows) as stream:
            yield from islice(stream, start - 1, start - 1 + count)


def _cut(text: str, room: int = MAX_SHOWN) -> str:
    return text if len(text) <= room else f"{text[:room]}…"


if __name__ == "__main__":
    sys.exit(main())
