"""Fetch and list base models.

gossamer model pull smollm2-135m        fetch into the cache; nothing to do if it is there
gossamer model pull OWNER/NAME          the same for a model of the Hugging Face hub
gossamer model text MODEL --output DIR  write the text part of a model for pictures
gossamer model list                     models known by a short name, and which are fetched
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gossamer.cli.parts.tables import format_bytes, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    pull = actions.add_parser("pull", help="fetch a model into the cache")
    pull.add_argument("name", metavar="NAME", help="alias (see `list`) or hub id OWNER/NAME")
    pull.add_argument("--revision", help="branch, tag or commit of a hub model")
    text = actions.add_parser("text", help="write the text part of a model for pictures as a model")
    text.add_argument("model", metavar="MODEL", help="folder or hub id OWNER/NAME")
    text.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder of the new model"
    )
    listing = actions.add_parser("list", help="show models known by a short name")
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    return {"pull": _pull, "text": _text, "list": _list}[args.action](args)


def _pull(args: argparse.Namespace) -> int:
    from gossamer.basemodel.find import fetch

    print(fetch(args.name, revision=args.revision))
    return 0


def _text(args: argparse.Namespace) -> int:
    from gossamer.basemodel.find import resolve
    from gossamer.basemodel.text_part import write_text_part

    write_text_part(resolve(args.model), args.output)
    print(args.output)
    return 0


def _list(args: argparse.Namespace) -> int:
    rows = _rows()
    if args.json:
        json.dump(rows, sys.stdout, indent=2)
        print()
        return 0
    print_table(
        ["name", "size", "fetched to", "what"],
        [
            [
                row["name"],
                format_bytes(row["num_bytes"]) if row["num_bytes"] else "-",
                row["folder"] or "(not fetched)",
                row["summary"],
            ]
            for row in rows
        ],
    )
    return 0


def _rows() -> list[dict[str, Any]]:
    from gossamer.basemodel import cache
    from gossamer.basemodel.catalog import CATALOG
    from gossamer.basemodel.pull import cached

    rows = []
    for alias, model in sorted(CATALOG.items()):
        folder = cached(alias)
        found = cache.read(folder) if folder else None
        rows.append(
            {
                "name": alias,
                "summary": model.summary,
                "licence": model.licence,
                "folder": str(folder) if folder else None,
                "num_bytes": found.num_bytes if found else None,
            }
        )
    return rows
