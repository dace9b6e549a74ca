"""Create, list and revoke API keys, and set what their tenants may use.

gossamer keys add TENANT                        make a key; it is shown once, only its hash is kept
gossamer keys add TENANT --adapter 'team-*'     ... and set what the tenant may use
gossamer keys add TENANT --admin                ... or make it an administrator's
gossamer keys list                              keys and tenants
gossamer keys revoke ID                         make a key invalid

A new tenant may use the base model only, until it is given names or patterns of adapters; '*' is
all of them, which a new administrator gets. The file is given to the server with `gossamer serve
--keys FILE`. A running server sees a change at the next call; tenants may also be edited by hand.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gossamer.cli.parts.options import Options, Style
from gossamer.cli.parts.tables import print_table
from gossamer.serving.keys import TenantSettings

_LIMITS = ("share", "max_in_flight", "tokens_per_minute", "resident_mib")
_TRAINING = ("train", "max_jobs", "max_queued_jobs", "storage_mib", "train_minutes_per_day")
TENANT = Options(
    TenantSettings,
    fields=("adapters", "admin", *_LIMITS, *_TRAINING),
    names={"adapters": "adapter"},
    metavars={
        "adapters": "NAME",
        "resident_mib": "MiB",
        "storage_mib": "MiB",
        "train_minutes_per_day": "MINUTES",
    },
    # What is not given stays as it is for a tenant that exists, so no default is told.
    style=Style(default="", can_deny=False),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="create a key for a tenant, and set what it may use")
    add.add_argument("tenant", metavar="TENANT", help="its name; made if it is new")
    TENANT.add_to(add)
    listing = actions.add_parser("list", help="show keys and tenants")
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    revoke = actions.add_parser("revoke", help="end a key")
    revoke.add_argument("id", metavar="ID", help="as `list` shows it, or the whole key")
    for action in (add, listing, revoke):
        action.add_argument(
            "--file", metavar="FILE", type=Path, default=Path("keys.yaml"), help="the key file"
        )


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    return {"add": _add, "list": _list, "revoke": _revoke}[args.action](args)


def _add(args: argparse.Namespace) -> int:
    from gossamer.serving.key_file import change_keys
    from gossamer.serving.keys import KeyFileSettings

    made: list[tuple[KeyFileSettings, str]] = []

    def change(content: KeyFileSettings) -> KeyFileSettings:
        made.append(content.with_key(args.tenant, TENANT.given(args)))
        return made[-1][0]

    change_keys(args.file, change, create=True)
    content, key = made[-1]
    # Beside the key, which programs read from the output.
    tenant = content.tenants[args.tenant]
    print(f"gossamer: {_what_it_may_use(args.tenant, tenant, args.file)}", file=sys.stderr)
    print(key)
    return 0


def _what_it_may_use(name: str, tenant: TenantSettings, file: Path) -> str:
    begin = f"tenant '{name}' may use the base model"
    if not tenant.adapters:
        return f"{begin} only; give it adapters with --adapter, or in its list 'adapters' in {file}"
    if "*" in tenant.adapters:
        return f"{begin} and all adapters"
    return f"{begin} and the adapters {', '.join(tenant.adapters)}"


def _list(args: argparse.Namespace) -> int:
    from gossamer.serving.key_file import read_keys

    content = read_keys(args.file)
    rows: list[dict[str, Any]] = [
        {
            "id": key.id,
            "tenant": key.tenant,
            "created": key.created,
            **content.tenants[key.tenant].model_dump(mode="json"),
        }
        for key in content.keys
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    columns = ["id", "tenant", "created", "adapters", "admin", *_LIMITS, "train"]
    print_table(columns, [[_cell(row[column]) for column in columns] for row in rows])
    return 0


def _revoke(args: argparse.Namespace) -> int:
    from gossamer.serving.key_file import change_keys

    key_id = args.id.removeprefix("gsm_").partition("_")[0]
    change_keys(args.file, lambda content: content.without_key(key_id))
    print(f"revoked {key_id}")
    return 0


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "-"
    if isinstance(value, list):
        return " ".join(value) or "-"
    return "-" if value is None else str(value)
