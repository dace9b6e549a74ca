"""Score a model and its adapters on the tasks of lm-evaluation-harness, all in one batch.

gossamer eval smollm2-135m --adapters runs --tasks arc_easy hellaswag --limit 100
gossamer eval smollm2-135m --adapters runs/pirate runs/chef --tasks my_task.yaml --output scores

Prints a table of models by tasks; with --output also writes it as Markdown, JSON and a picture.
Exit code 1: an adapter was refused and is missing in the table.
"""

import argparse
import sys

from gossamer.cli.parts.options import Options, Style
from gossamer.evaluation.settings import EvalSettings
from gossamer.extras import require

EVAL = Options(
    EvalSettings,
    names={"memory_gib": "memory"},
    metavars={
        "model": "MODEL",
        "tasks": "TASK",
        "adapters": "DIR",
        "include": "DIR",
        "output": "DIR",
        "memory_gib": "GiB",
    },
    word="model",
    style=Style(lists="words"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    EVAL.add_to(parser)


def run(args: argparse.Namespace) -> int:
    """Score and print the table; returns the exit code."""
    settings = EVAL.read(args)
    require("eval", "eval")
    from gossamer.cli.parts.tables import print_table
    from gossamer.evaluation.run import evaluate

    scores = evaluate(settings, lambda line: print(line, file=sys.stderr))
    print_table(*scores.rows())
    return 1 if scores.left_out else 0
