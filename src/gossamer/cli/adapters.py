"""List, inspect, merge and convert adapters.

gossamer adapters list DIR                      the adapters in a folder
gossamer adapters inspect PATH                  one adapter: kind, rank, targets, size, digest
gossamer adapters merge PATH --output DIR       fold it into its base model, as a model folder
gossamer adapters convert PATH --output DIR     write it as plain LoRA, which PEFT alone can load
"""

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.cli.parts.options import Options
from gossamer.cli.parts.tables import format_bytes, print_table
from gossamer.errors import GossamerError

if TYPE_CHECKING:
    from gossamer.adapters.inspect import AdapterInfo

LIMITS = Options(AdapterLimits, title="reading untrusted adapters")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="show the adapters in a folder")
    listing.add_argument("folder", metavar="DIR", type=Path)
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    inspect = actions.add_parser("inspect", help="describe one adapter")
    inspect.add_argument("folder", metavar="PATH", type=Path)
    inspect.add_argument("--json", action="store_true", help="print JSON instead of text")
    merge = actions.add_parser(
        "merge", help="fold an adapter into its base model (LoRA, DoRA, IA3, SHiRA, SMT)"
    )
    merge.add_argument("folder", metavar="PATH", type=Path)
    merge.add_argument(
        "--output", metavar="DIR", type=Path, required=True, help="folder of the merged model"
    )
    merge.add_argument(
        "--model", metavar="M", help="base model; default: the one named in the adapter's config"
    )
    merge.add_argument(
        "--overwrite", action="store_true", help="replace a model folder that is already there"
    )
    convert = actions.add_parser(
        "convert", help="write an adapter as plain LoRA: exact, or with a stated error"
    )
    _add_conversion(convert)
    for action in (listing, inspect, merge, convert):
        LIMITS.add_to(action)


def _add_conversion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="PATH", type=Path)
    parser.add_argument(
        "--output", metavar="DIR", type=Path, required=True, help="folder of the LoRA adapter"
    )
    parser.add_argument(
        "--rank",
        metavar="N",
        type=int,
        help="rank of the LoRA (the most, with --max-error) where sparse changes are approximated",
    )
    parser.add_argument(
        "--max-error",
        metavar="X",
        type=float,
        help="largest relative error of the change of any matrix, such as 0.1; what cannot be "
        "approximated as well is refused",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="base model, of which only the configuration is read; default: the one named in the "
        "adapter's config",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    actions = {"list": _list, "inspect": _inspect, "merge": _merge, "convert": _convert}
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from gossamer.adapters.inspect import find_adapters, inspect

    limits = LIMITS.read(args)
    rows: list[dict[str, Any]] = []
    for folder in find_adapters(args.folder):
        try:
            rows.append(_as_json(inspect(folder, limits)))
        except GossamerError as error:
            # One broken adapter must not hide the others.
            rows.append({"name": folder.absolute().name, "problem": str(error)})
    if args.json:
        return _print_json(rows)
    if not rows:
        print(f"no adapters in {args.folder}", file=sys.stderr)
        return 0
    print_table(
        ["name", "kind", "method", "rank", "targets", "size", "digest", "base"],
        [_cells(r) for r in rows],
    )
    for row in rows:
        if "problem" in row:
            print(f"{row['name']}: {row['problem']}", file=sys.stderr)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from gossamer.adapters.inspect import inspect

    info = inspect(args.folder, LIMITS.read(args))
    if args.json:
        return _print_json(_as_json(info))
    created = datetime.fromtimestamp(info.created, UTC).astimezone()
    lines = {
        "name": info.name,
        "path": str(info.path),
        "kind": info.kind,
        "method": info.method,
        "rank": ", ".join(map(str, info.ranks)) or "-",
        "targets": ", ".join(info.targets) or "-",
        "parameters": f"{info.num_parameters:,}",
        "size": f"{format_bytes(info.num_bytes)} ({info.dtype})",
        "digest": info.digest,
        "base": (info.base or "-") + _precision(info),
        "created": created.isoformat(sep=" ", timespec="seconds"),
    }
    width = max(map(len, lines))
    for key, value in lines.items():
        print(f"{key:<{width}}  {value}")
    return 0


def _precision(info: "AdapterInfo") -> str:
    return f" (quantised as {info.quantization})" if info.quantization is not None else ""


def _merge(args: argparse.Namespace) -> int:
    from gossamer.merging import merge_to_folder

    merge_to_folder(
        args.folder,
        args.output,
        model=args.model,
        overwrite=args.overwrite,
        limits=LIMITS.read(args),
    )
    print(args.output)
    return 0


def _convert(args: argparse.Namespace) -> int:
    from gossamer.conversion.convert import as_record, convert_to_lora

    conversion = convert_to_lora(
        args.folder,
        args.output,
        rank=args.rank,
        max_error=args.max_error,
        model=args.model,
        limits=LIMITS.read(args),
    )
    if args.json:
        return _print_json(as_record(conversion))
    if conversion.exact:
        print(f"exact: {len(conversion.modules)} layers", file=sys.stderr)
    else:
        rows = [[part.module, str(part.rank), f"{part.error:.2e}"] for part in conversion.modules]
        print_table(["layer", "rank", "relative error"], rows)
        worst = conversion.worst
        print(
            f"relative error: {conversion.error:.2e} of all layers together, at worst "
            f"{worst.error:.2e}, of {worst.module}",
            file=sys.stderr,
        )
    print(args.output)
    return 0


def _cells(row: dict[str, Any]) -> list[str]:
    if "problem" in row:
        return [row["name"], "unusable", *"------"]
    return [
        row["name"],
        row["kind"],
        row["method"],
        str(row["rank"] or "-"),
        " ".join(row["targets"]) or "-",
        format_bytes(row["num_bytes"]),
        row["digest"][:12],
        row["base"] or "-",
    ]


def _as_json(info: "AdapterInfo") -> dict[str, Any]:
    return {**asdict(info), "path": str(info.path)}


def _print_json(content: Any) -> int:
    print(json.dumps(content, indent=2))
    return 0
