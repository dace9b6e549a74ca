"""How long the rows of a file are in tokens and what of them is learnt: `python -m` this module.

A question comes as one line of JSON on the standard input, the answer goes to the standard output.
The first rows are read as a run would read them, with the base model's tokenizer, in a process of
their own with the limits of `check`.
"""

import json
import sys
from contextlib import closing
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from gossamer.jobs.files.check import limit_process

FIRST_ROWS = 1000
"""Rows that are looked at."""
PREVIEWS = 20
MAX_SHOWN = 2000
"""Characters of a previewed row."""


def main() -> int:
    """Answer one question."""
    question = json.loads(sys.stdin.readline())
    # Before the limits, which let nothing be written: libraries try out a folder for temporary
    # files when they are loaded. What a stranger wrote is not read yet.
    from gossamer.basemodel.load import load_tokenizer
    from gossamer.errors import GossamerError

    try:
        tokenizer = load_tokenizer(Path(question["model"]))
        limit_process(question["max_bytes"], question["max_seconds"])
        found = sample(Path(question["path"]), question["name"], tokenizer)
    except GossamerError as error:
        found = {"error": str(error)}
    except MemoryError:
        found = {"error": "the first rows need too much memory to be counted"}
    json.dump(found, sys.stdout)
    return 0


def sample(path: Path, name: str, tokenizer: Any) -> dict[str, Any]:
    """Count the tokens of the first usable rows of the file `path`, called `name` by its owner.

    Gives `lengths`, the tokens of each row before cutting (of a pair the longer side); `learnt`,
    those of each that count in the loss; `is_all`, whether these are all rows; and `preview`: rows
    by number as parts of text, learnt or not. Raises `GossamerError` for a file that cannot be
    read and a tokenizer that cannot render its rows.
    """
    from gossamer.jobs.files.report import open_rows
    from gossamer.training.data.check import check_row
    from gossamer.training.data.encode import ExampleEncoder
    from gossamer.training.data.formats import detect_format
    from gossamer.training.data.render import Renderer, require_template
    from gossamer.training.data.rows import Row, RowProblem
    from gossamer.training.data.settings import DataSettings

    source = open_rows(path, name)
    with closing(source.rows) as stream:
        first = list(islice(stream, FIRST_ROWS + 1))
    rows = [row for row in first[:FIRST_ROWS] if isinstance(row, Row)]
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    fmt = detect_format(columns, "auto", name)
    if fmt != "text":
        require_template(tokenizer)
    renderer = Renderer(tokenizer, DataSettings(data=name))
    numbers, rendered = [], []
    for row in rows:
        try:
            sides = renderer.render_sides(check_row(row.values, fmt))
        except RowProblem:
            continue  # The check of the file has told of it.
        numbers.append(row.number)
        rendered.append(sides)
    encoded = iter(ExampleEncoder(tokenizer).encode([side for row in rendered for side in row]))
    examples = [[next(encoded) for _ in row] for row in rendered]
    return {
        "is_all": len(first) <= FIRST_ROWS,
        "lengths": [max(len(side.input_ids) for side in row) for row in examples],
        "learnt": [sum(side.trained_tokens for side in row) for row in examples],
        "preview": [
            {"row": number, "parts": _parts(tokenizer, row[0])}
            for number, row in islice(zip(numbers, examples, strict=True), PREVIEWS)
        ],
    }


def _parts(tokenizer: Any, example: Any) -> list[dict[str, Any]]:
    """The text of an example in stretches that are learnt or not, cut where it gets long."""
    from gossamer.training.data.encode import NO_LOSS

    pairs = zip(example.input_ids, example.labels, strict=True)
    parts, room = [], MAX_SHOWN
    for learnt, tokens in groupby(pairs, key=lambda pair: pair[1] != NO_LOSS):
        ids = [token for token, _ in tokens]
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        parts.append({"text": text if len(text) <= room else f"{text[:room]}…", "learnt": learnt})
        room -= len(text)
        if room <= 0:
            break
    return parts


if __name__ == "__main__":
    sys.exit(main())
