"""Compare methods: train each on the same rows, seeds and steps, and score what they learn.

The result is a folder with a table, plots and each adapter. Ctrl-C stops it at any time, and the
same command goes on with what is missing. A method that fails is noted with its reason, and the
others go on; the exit code is then 1.
"""

import argparse
from pathlib import Path

from gossamer.cli.parts import known_tasks
from gossamer.cli.parts.options import Options, Style, add_assignments
from gossamer.extras import require
from gossamer.settings import parse_assignments
from gossamer.training.comparison.settings import CompareSettings
from gossamer.training.evaluation.settings import EvaluationSettings

COMPARE = Options(
    CompareSettings,
    fields=(
        *("model", "data", "eval", "methods", "budget", "seeds", "output"),
        *EvaluationSettings.model_fields,
    ),
    metavars={
        "model": "MODEL",
        "data": "FILE",
        "eval": "FILE",
        "methods": "METHOD",
        "budget": "KIND=N",
        "output": "DIR",
    },
    style=Style(default=" (default {})", lists="words"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes; the words come from the settings themselves."""
    COMPARE.add_to(parser)
    known_tasks.add_arguments(parser)
    add_assignments(parser, "a setting of all runs, such as batch_size; may be given several times")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    require("compare", "tune")
    settings = COMPARE.read(args, run=parse_assignments(args.assignments))
    # Before torch is loaded, which takes seconds.
    settings.check()
    output = Path(settings.output)
    scored = known_tasks.planned(args, "compare", settings.model, [output / "runs"], output)

    from gossamer.training.comparison.compare import run_comparison
    from gossamer.training.comparison.process import ComparisonInterrupted
    from gossamer.training.comparison.progress import ComparisonProgress
    from gossamer.training.comparison.results import table

    try:
        comparison = run_comparison(settings, ComparisonProgress())
    except ComparisonInterrupted as stopped:
        print(stopped)
        return 130
    print(f"\n{table(comparison)}\nin {comparison.output}")
    code = known_tasks.score(scored) if scored is not None else 0
    return 1 if comparison.failed else code
