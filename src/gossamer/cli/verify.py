"""Prove that the server answers as the trained models do.

gossamer verify runs/pirate runs/chef            base: the one that the adapters' configs name
gossamer verify --model smollm2-135m runs/*

All adapters and the base answer the same prompts in one mixed batch, greedily. Then each adapter is
merged into the base, and loaded by PEFT, and asked alone; tokens must be equal, log-probabilities
equal but for rounding. Kinds that cannot be merged are compared with PEFT only.

Exit code 0: all agree; 1: at least one does not.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.cli.parts.options import Options
from gossamer.verification.verify import VerifySettings

if TYPE_CHECKING:
    from gossamer.verification.verify import Verdict

VERIFY = Options(
    VerifySettings,
    names={"prompts": "prompt", "memory_gib": "memory"},
    metavars={"memory_gib": "GiB"},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER", type=Path, help="adapter folders")
    parser.add_argument("--model", metavar="NAME", help="base model: alias, folder or hub id")
    VERIFY.add_to(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Verify and print one line per adapter and reference."""
    from gossamer.adapters.base_name import common_base
    from gossamer.basemodel.find import resolve
    from gossamer.verification.verify import verify

    settings = VERIFY.read(args)
    base = resolve(args.model or common_base(args.adapters, remedy="give --model"))
    verdicts = verify(base, args.adapters, settings, _tell)
    if args.json:
        print(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
    else:
        _print(verdicts)
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _print(verdicts: "list[Verdict]") -> None:
    from gossamer.cli.parts.tables import print_table

    columns = ["adapter", "kind", "against", "equal tokens", "largest difference", "verdict"]
    print_table(columns, [_cells(verdict) for verdict in verdicts if verdict.problem is None])
    for verdict in verdicts:
        if verdict.problem is not None:
            _tell(f"{verdict.adapter}: not compared with {verdict.reference}: {verdict.problem}")


def _cells(verdict: "Verdict") -> list[str]:
    tokens = f"{verdict.equal_tokens}/{verdict.tokens}"
    if verdict.ties:
        tokens += f" ({verdict.ties} tied)"
    return [
        verdict.adapter,
        verdict.kind,
        verdict.reference,
        tokens,
        f"{verdict.largest_difference:.1e}",
        "pass" if verdict.passed else "FAIL",
    ]


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
