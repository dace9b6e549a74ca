"""`gossamer jobs db`: the tables of jobs, looked at and brought up to date without a server."""

import argparse
from typing import TYPE_CHECKING

from gossamer.cli.parts.options import Options
from gossamer.errors import StorageError
from gossamer.extras import require
from gossamer.jobs.settings import JobsSettings

if TYPE_CHECKING:
    from gossamer.jobs.store.database import Database

PLACE = Options(
    JobsSettings,
    title="where the tables are",
    metavars={"data_dir": "DIR", "database": "URL"},
    fields=("data_dir", "database"),
)


def add_arguments(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `db` among the sub-commands of `gossamer jobs`."""
    tables = actions.add_parser("db", help="check the tables of jobs, or bring them up to date")
    steps = tables.add_subparsers(dest="step", required=True, metavar="ACTION")
    for name, what in (
        ("check", "compare the tables with those of this version; exit code 1 if they differ"),
        ("upgrade", "bring the tables up to date; a SQLite file is copied before"),
    ):
        PLACE.add_to(steps.add_parser(name, help=what))


def run(args: argparse.Namespace) -> int:
    """Check or upgrade; returns the exit code. Raises `StorageError` for unusable tables."""
    require("jobs db", "studio")
    from gossamer.files import storing
    from gossamer.jobs.store import JobStore
    from gossamer.jobs.store.database import Database
    from gossamer.jobs.store.migrate import newest_revision, revision

    settings = PLACE.read(args)
    if settings.database is None and not settings.folder.database.is_file():
        raise StorageError(
            f"there are no tables in --data-dir {settings.folder.root}; a server with --jobs makes "
            "them when it starts"
        )
    database = Database(settings.database_url)
    try:
        with storing("cannot use the database"):
            before = revision(database)
            if args.step == "check":
                return _check(database, before)
    finally:
        database.close()
    JobStore.open(settings).close()
    after = newest_revision()
    print(f"revision {after}" if before == after else f"revision {before} -> {after}")
    return 0


def _check(database: "Database", found: str | None) -> int:
    from gossamer.jobs.store.migrate import differences, newest_revision

    wanted = newest_revision()
    if found != wanted:
        print(f"the tables have revision {found}, this version makes {wanted}")
        return 1
    lacking = differences(database)
    for each in lacking:
        print(f"differs from revision {wanted}: {each}")
    if not lacking:
        print(f"revision {wanted}, as this version makes it")
    return 1 if lacking else 0
