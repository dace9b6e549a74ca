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

if TYPE_CHECKING:
    from gossamer.verification.verify import Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER", type=Path, help="adapter folders")
    parser.add_argument("--model", metavar="NAME", help="base model: alias, folder or hub id")
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT", help="repeatable; default: four unlike ones"
    )
    parser.add_argument("--new-tokens", type=_positive_int, default=32, metavar="N")
    parser.add_argument(
        "--tolerance",
        type=_positive_float,
        default=1e-3,
        metavar="X",
        help="largest difference of a log-probability that counts as rounding (default 0.001)",
    )
    parser.add_argument("--memory", type=_positive_float, metavar="GiB", help="as for serve")
    parser.add_argument(
        "--adapter-rows", choices=["as-saved", "int8"], default="as-saved", help="as for serve"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Verify and print one line per adapter and reference."""
    from gossamer.basemodel.find import resolve
    from gossamer.verification.verify import VerifySettings, require_same_base, verify

    base = resolve(require_same_base(args.adapters, args.model))
    settings = VerifySettings.parse(
        {
            **({"prompts": args.prompt} if args.prompt else {}),
            "new_tokens": args.new_tokens,
            "tolerance": args.tolerance,
            "memory_gib": args.memory,
            "adapter_rows": args.adapter_rows,
        }
    )
    verdicts = verify(base, args.adapters, settings, _tell)
    if args.json:
        print(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
    else:
        _print(verdicts)
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _print(verdicts: "list[Verdict]") -> None:
    from gossamer.cli._tables import print_table

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


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
