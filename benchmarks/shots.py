"""Puts worked rows in front of each row's prompt: much more context to what is learnt.

    python benchmarks/shots.py ROWS.jsonl OUTPUT.jsonl [--shots 1] [--from TRAIN.jsonl]

Rows have `prompt` and `completion`, as `sparse_quality.py` reads them; other keys are kept. The
worked rows are drawn by the seed from `--from`, by default the rows themselves, never a row in
front of itself.
"""

import argparse
import json
import random
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--from", dest="source", type=Path, help="rows that are shown worked")
    parser.add_argument("--longest", type=int, help="characters of the rows that are used")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows, shown = (read(path, args.longest) for path in (args.rows, args.source or args.rows))
    chance = random.Random(args.seed)
    lines = []
    for row in rows:
        others = [other for other in chance.sample(shown, args.shots + 1) if other != row]
        worked = [f"{other['prompt']}\n{other['completion']}" for other in others[: args.shots]]
        lines.append(json.dumps({**row, "prompt": "\n\n".join([*worked, row["prompt"]])}))
    args.output.write_text("\n".join(lines) + "\n")


def read(path: Path, longest: int | None) -> list[dict[str, str]]:
    """The rows of a file of JSON lines whose texts have at most `longest` characters."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    sizes = [len(row["prompt"]) + len(row["completion"]) for row in rows]
    return [row for row, size in zip(rows, sizes, strict=True) if size <= (longest or size)]


if __name__ == "__main__":
    main()
