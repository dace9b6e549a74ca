"""Scores what a run has learned on known tasks: the options of `tune` and `compare` for that."""

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from gossamer.errors import UsageError
from gossamer.evaluation.settings import EvalSettings
from gossamer.extras import require

FOLDER = "scores"
"""The folder of scores within that of the result."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("known tasks")
    group.add_argument(
        "--eval-tasks",
        nargs="+",
        metavar="TASK",
        help="in the end score the result and the base model on these tasks, as `gossamer eval` "
        f"does, into the folder {FOLDER} of the output; needs the extra eval",
    )
    group.add_argument(
        "--eval-limit",
        type=int,
        metavar="N",
        help="at most this many rows of each of these tasks, always the first ones",
    )


def planned(
    args: argparse.Namespace, command: str, model: str, adapters: Sequence[Path], output: Path
) -> EvalSettings | None:
    """Make the settings of the evaluation that is asked for; None: none is.

    Called before anything is trained. Raises `UsageError` for a task that does not exist, and what
    the settings or a missing extra raise.
    """
    if not args.eval_tasks:
        if args.eval_limit is not None:
            raise UsageError("--eval-limit is about --eval-tasks; name tasks, or leave it out")
        return None
    require(f"{command} --eval-tasks", "eval")
    given = {
        "model": model,
        "tasks": tuple(args.eval_tasks),
        "adapters": tuple(adapters),
        "limit": args.eval_limit,
        "output": output / FOLDER,
    }
    settings = EvalSettings.parse(given, where=f"{command} --eval-tasks")
    from gossamer.evaluation.run import check_tasks

    check_tasks(settings)
    return settings


def score(settings: EvalSettings) -> int:
    """Score, and print the table; returns 1 if an adapter was refused and is missing."""
    from gossamer.cli.parts.tables import print_table
    from gossamer.evaluation.run import evaluate

    # What was trained is not to lie beside the model that is scored.
    gc.collect()
    scores = evaluate(settings, lambda line: print(line, file=sys.stderr))
    print_table(*scores.rows())
    print(f"in {settings.output}")
    return 1 if scores.left_out else 0
