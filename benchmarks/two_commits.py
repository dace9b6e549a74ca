"""Decode steps of two checkouts in turn: what a change costs.

    git worktree add /tmp/before COMMIT
    python benchmarks/two_commits.py --before /tmp/before --output benchmarks/results/FILE.json

Each checkout runs in a process of its own with its own `src` and its own `benchmarks/decode.py`, on
the same base model, adapters and prompts. The two take their steps in turn (`turns.py`), since a
shared machine drifts within seconds. A ratio is the median over pairs of steps of the time before
divided by the time after: above 1, the change made steps faster. With `--after` given the same
checkout as `--before`, the run shows the spread of the method itself.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from turns import AfterStep, Job, take_turns

BATCHES = ("base", "distinct", "distinct DoRA", "one shared")


def main() -> None:
    """Run both checkouts and print the table; as a child, serve the steps of one."""
    args = parse_args()
    if args.child:
        serve_steps(args)
        return
    from common import describe_machine

    with tempfile.TemporaryDirectory() as scratch:
        make_adapters(args, Path(scratch))
        sides = [Side(args, tree, Path(scratch)) for tree in (args.before, args.after)]
        found = run_rounds(sides, args)
        for side in sides:
            side.close()
    report(args, found, describe_machine())


def parse_args() -> argparse.Namespace:
    """The command line."""
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--after", type=Path, default=here, help="by default this one")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB of each block pool")
    parser.add_argument("--batches", default=",".join(BATCHES), help="separated by commas")
    parser.add_argument("--output", type=Path, help="write the figures there as JSON")
    parser.add_argument(
        "--child", nargs=2, metavar=("CHECKOUT", "ADAPTERS"), help=argparse.SUPPRESS
    )
    return parser.parse_args()


def make_adapters(args: argparse.Namespace, folder: Path) -> None:
    """As many low-rank and DoRA adapters as there are sequences, for both sides."""
    from common import random_adapters
    from gossamer.basemodel.find import resolve

    base = resolve(args.model)
    random_adapters(folder, base, args.sequences, args.rank, prefix="plain")
    random_adapters(folder, base, args.sequences, args.rank, prefix="dora", dora=True)


class Side:
    """The process of one checkout."""

    def __init__(self, args: argparse.Namespace, tree: Path, adapters: Path) -> None:
        options = ["--model", args.model, "--sequences", str(args.sequences)]
        options += ["--new-tokens", str(args.new_tokens), "--memory", str(args.memory)]
        own = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths_of(tree)))}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--before", tree, *options, "--child", tree, adapters],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=own,
        )  # fmt: skip

    def run(self, batch: str, after_step: AfterStep) -> None:
        """Have the process answer all prompts of `batch`; a `Job` for `take_turns`."""
        self._say(batch)
        while (said := self._hear()) != "end":
            assert said == "step", f"a child said {said!r}"
            after_step()
            self._say("go")

    def job(self, batch: str) -> Job:
        """The same without the first argument."""
        return lambda after_step: self.run(batch, after_step)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        print(word, file=self._process.stdin, flush=True)

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a child ended with exit code {self._process.wait()}")
        return line.strip()


def paths_of(tree: Path) -> list[Path]:
    """Where a checkout's modules are."""
    return [tree / "src", tree / "benchmarks"]


def serve_steps(args: argparse.Namespace) -> None:
    """The child: one engine; each line of standard input names a batch to answer."""
    # What libraries print must not get between the words of the protocol.
    words, sys.stdout = sys.stdout, sys.stderr
    tree, adapters = map(Path, args.child)
    sys.path[:0] = map(str, paths_of(tree))
    import decode
    from common import random_prompts
    from gossamer import LLM
    from gossamer.basemodel.find import resolve

    def end_step() -> None:
        print("step", file=words, flush=True)
        if sys.stdin.readline().strip() != "go":
            os._exit(1)

    count = args.sequences
    folder = resolve(args.model)
    prompts = random_prompts(folder, count, 32)
    plain = [f"plain-{n}" for n in range(count)]
    batches: dict[str, list[str | None]] = {
        "base": [None] * count,
        "distinct": [*plain],
        "distinct DoRA": [f"dora-{n}" for n in range(count)],
        "one shared": [plain[0]] * count,
    }
    with LLM(str(folder), adapters=adapters, memory_gib=args.memory) as llm:
        for line in sys.stdin:
            decode.ours(llm, prompts, batches[line.strip()], args.new_tokens, end_step)
            print("end", file=words, flush=True)


def run_rounds(
    sides: list[Side], args: argparse.Namespace
) -> dict[str, list[list[tuple[float, float]]]]:
    """Each batch once to warm up, then the steps of both in pairs, by batch and round.

    Who begins changes from round to round.
    """
    batches = args.batches.split(",")
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    for batch in batches:
        for side in sides:
            side.run(batch, nothing)
    found: dict[str, list[list[tuple[float, float]]]] = {batch: [] for batch in batches}
    for number in range(args.rounds):
        for batch in batches:
            order = sides if number % 2 == 0 else sides[::-1]
            pairs = take_turns(*(side.job(batch) for side in order))
            pairs = pairs if number % 2 == 0 else [pair[::-1] for pair in pairs]
            found[batch].append(pairs)
            print(f"round {number}: {batch} {ratio(pairs):.3f}x", file=sys.stderr)
    return found


def ratio(pairs: list[tuple[float, float]]) -> float:
    """Of the time before to the time after."""
    return statistics.median(before / after for before, after in pairs)


def report(
    args: argparse.Namespace, found: dict[str, list[list[tuple[float, float]]]], machine: str
) -> None:
    """Print medians and the spread of the rounds; write them where asked."""
    rows = {}
    for batch, rounds in found.items():
        pairs = [pair for pairs in rounds for pair in pairs]
        by_round = sorted(ratio(pairs) for pairs in rounds)
        rows[batch] = {
            "milliseconds_before": round(1000 * statistics.median(pair[0] for pair in pairs), 2),
            "milliseconds_after": round(1000 * statistics.median(pair[1] for pair in pairs), 2),
            "ratio": round(ratio(pairs), 4),
            "ratio_by_round": [round(each, 4) for each in by_round],
            "num_pairs": len(pairs),
        }
    print(machine)
    for batch, row in rows.items():
        print(
            f"{batch:<16}{row['milliseconds_before']:9.1f} ms {row['milliseconds_after']:9.1f} ms"
            f"{row['ratio']:9.3f}x  rounds {row['ratio_by_round'][0]:.3f} to "
            f"{row['ratio_by_round'][-1]:.3f}  ({row['num_pairs']} pairs)"
        )
    if args.output:
        commits = {side: commit(getattr(args, side)) for side in ("before", "after")}
        text = {
            "machine": machine,
            "commits": commits,
            "settings": settings_of(args),
            "batches": rows,
        }
        args.output.write_text(json.dumps(text, indent=1) + "\n")


def settings_of(args: argparse.Namespace) -> dict[str, str]:
    """What the figures depend on, without the places of the checkouts."""
    places = {"before", "after", "child", "output"}
    return {name: str(value) for name, value in vars(args).items() if name not in places}


def commit(tree: Path) -> str:
    """The commit that a checkout stands at."""
    asked = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
