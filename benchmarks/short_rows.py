"""Writes the rows of a file that are short enough, shuffled.

    python benchmarks/short_rows.py TEST.jsonl --longest 96 --first 36 --output judged.jsonl
    python benchmarks/short_rows.py TEST.jsonl --longest 128 --without judged.jsonl \
        --output rest.jsonl

Rows have "prompt" and "completion"; their length is that of both together in the model's tokens.
The order is always the same one: the first command writes the rows by which `learning_rates.py`
judges rates, the second one rows that no rate was chosen by.
"""

import argparse
import json
import random
from pathlib import Path

from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_tokenizer


def main() -> None:
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--longest", type=int, default=96, help="tokens of a row at most")
    parser.add_argument("--first", type=int, help="so many rows; unset: all")
    parser.add_argument("--without", type=Path, help="a file with rows to leave out")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    unwanted = set(args.without.read_text().splitlines(keepends=True)) if args.without else set()
    rows = [row for row in short_rows(args.rows, args.model, args.longest) if row not in unwanted]
    rows = rows[: args.first]
    args.output.write_text("".join(rows))
    print(f"{len(rows)} rows of at most {args.longest} tokens")


def short_rows(path: Path, model: str, longest: int) -> list[str]:
    """The lines of `path` whose prompt and completion have at most `longest` tokens, shuffled."""
    tokenizer = load_tokenizer(resolve(model))
    lines = path.read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    texts = [row["prompt"] + row["completion"] for row in rows]
    lengths = [len(ids) for ids in tokenizer(texts).input_ids]
    kept = [line for line, length in zip(lines, lengths, strict=True) if length <= longest]
    random.Random(0).shuffle(kept)
    return kept


if __name__ == "__main__":
    main()
