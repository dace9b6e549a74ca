"""`gossamer cluster publish`, `withdraw` and `prune`: names in the catalog, files in the store."""

import argparse
import sys
from pathlib import Path

from gossamer.cli.parts.tables import format_bytes
from gossamer.errors import SettingError, UnknownNameError, cut
from gossamer.extras import require

MIN_HOURS = 1.0
"""Within it, ingresses have seen each change and publications that run have ended."""


def add_arguments(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `publish`, `withdraw` and `prune` among the sub-commands of `gossamer cluster`."""
    parser = actions.add_parser(
        "publish",
        help="let all replicas serve an adapter under a name, from one moment on; running requests "
        "end with what the name meant before",
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="the run, or the adapter")
    parser.add_argument(
        "--name", metavar="NAME", help="what clients call it [default: the folder's]"
    )
    _add_catalog(parser)
    _add_store(parser)
    parser = actions.add_parser(
        "withdraw",
        help="let a name mean nothing from now on; running requests end with what it meant, and "
        "the files stay in the store until `prune`",
    )
    parser.add_argument("name", metavar="NAME", help="what clients call it")
    _add_catalog(parser)
    parser = actions.add_parser(
        "prune",
        help="remove from the store what no name has meant for some hours: former versions, and "
        "names that were withdrawn",
    )
    _add_catalog(parser)
    _add_store(parser)
    parser.add_argument(
        "--keep-hours",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="how long a version stays after its name has come to mean something else, at least "
        f"{MIN_HOURS:g}: requests that began before may still need it [default: 24]",
    )
    parser.add_argument(
        "--unnamed",
        action="store_true",
        help="also what lies in the store and the catalog has never heard of, such as of a "
        "publication that was broken off; its hours begin now. Not where another catalog uses the "
        "same store",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="remove nothing, and say what would be"
    )


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        metavar="PLACE",
        help="where adapters are kept: a folder, or a URL that fsspec knows, such as s3://bucket "
        "[default: the folder of a SQLite catalog]",
    )


def _add_catalog(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--catalog",
        required=True,
        metavar="URL",
        help="the catalog's database: sqlite:////shared/catalog.db for one machine, "
        "postgresql://user@host/name for several",
    )


def _store_place(args: argparse.Namespace) -> str:
    from gossamer.cluster.published.database import default_store

    if args.store is not None:
        return str(args.store)
    beside = default_store(args.catalog)
    if beside is None:
        raise SettingError("--store PLACE is required unless the catalog is a SQLite file")
    return str(beside)


def run(args: argparse.Namespace) -> int:
    """Publish and say what the name means now."""
    require("cluster publish", "catalog")
    from gossamer.cluster.published.catalog import AdapterCatalog
    from gossamer.cluster.published.publish import publish_adapter
    from gossamer.cluster.published.store import open_store

    store = open_store(_store_place(args))
    catalog = AdapterCatalog(args.catalog)
    try:
        done = publish_adapter(args.run, catalog, store, args.name)
    finally:
        catalog.close()
    former = "a new name" if done.former is None else f"before: {done.former.digest[:12]}"
    if done.former is not None and done.former.digest == done.adapter.digest:
        former = "as before"
    size = format_bytes(done.adapter.num_bytes)
    print(f"{done.name}: {done.adapter.digest[:12]} ({done.adapter.kind}, {size}), {former}")
    return 0


def withdraw(args: argparse.Namespace) -> int:
    """Take a name away. Raises `UnknownNameError` for one that means nothing."""
    require("cluster withdraw", "catalog")
    from gossamer.cluster.published.catalog import AdapterCatalog

    catalog = AdapterCatalog(args.catalog)
    try:
        if not catalog.withdraw(args.name):
            raise UnknownNameError.among("adapter", args.name, catalog.names_like(args.name))
    finally:
        catalog.close()
    print(f"{args.name}: withdrawn")
    return 0


def prune(args: argparse.Namespace) -> int:
    """Remove former versions whose time is over, and say which; 1 if any could not be removed."""
    require("cluster prune", "catalog")
    if not MIN_HOURS <= args.keep_hours < float("inf"):
        raise SettingError(
            f"--keep-hours {args.keep_hours:g}: must be at least {MIN_HOURS:g}; requests may still "
            "need what is younger"
        )
    from gossamer.cluster.published import prune as pruning
    from gossamer.cluster.published.catalog import AdapterCatalog
    from gossamer.cluster.published.store import open_store

    store = open_store(_store_place(args))
    catalog = AdapterCatalog(args.catalog)
    try:
        done = pruning.prune(
            catalog, store, 3600 * args.keep_hours, unnamed=args.unnamed, dry_run=args.dry_run
        )
    finally:
        catalog.close()
    for version in done.removed:
        print(version.place)
    size = format_bytes(sum(version.num_bytes for version in done.removed))
    what = "would be removed" if args.dry_run else "removed"
    noted = f", {done.noted} of them noted now" if done.noted else ""
    print(f"{len(done.removed)} {what} ({size}), {done.kept} kept for now{noted}")
    for message in dict.fromkeys(str(error) for _, error in done.failed):
        print(f"gossamer: error: {cut(message, 1000)}", file=sys.stderr)
    return 1 if done.failed else 0
