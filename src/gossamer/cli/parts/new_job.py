"""`gossamer jobs create`: from a file of rows to a job of a server."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.cli.parts.options import add_assignments
from gossamer.cli.parts.server_answer import server_answer
from gossamer.errors import DataError, ServingError
from gossamer.settings import parse_assignments

if TYPE_CHECKING:
    import httpx

_LOOK_SECONDS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what a job is made of."""
    parser.add_argument("rows", metavar="FILE", type=Path, help="rows to learn from")
    parser.add_argument("--held-out", metavar="FILE", type=Path, help="rows to be scored by")
    parser.add_argument("--method", default="lora", metavar="NAME", help="[default: lora]")
    add_assignments(parser, "a setting of the method, such as rank=8")
    parser.add_argument(
        "--train",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the run, such as max_steps=200; also several times",
    )
    parser.add_argument("--name", metavar="TEXT", help="part of the name of the tuned model")
    parser.add_argument("--seed", type=int, metavar="N", help="of all random numbers")
    parser.add_argument("--model", metavar="NAME", help="base model; default: the server's")


def create(args: argparse.Namespace, client: "httpx.Client") -> str:
    """Send the rows, wait until they were read, and make the job; returns its identifier.

    Raises `DataError` for a file that cannot be used, `ServingError` for what the server refuses.
    """
    base = args.model or server_answer(client.get("models"))["data"][0]["id"]
    body: dict[str, Any] = {
        "model": base,
        "training_file": _send(client, args.rows),
        "adapter": {"method": args.method, **parse_assignments(args.assignments)},
        "training": parse_assignments(args.train),
        "suffix": args.name,
        "seed": args.seed,
    }
    if args.held_out is not None:
        body["validation_file"] = _send(client, args.held_out)
    given = {name: value for name, value in body.items() if value is not None}
    return str(server_answer(client.post("fine_tuning/jobs", json=given))["id"])


def _send(client: "httpx.Client", path: Path) -> str:
    try:
        with path.open("rb") as file:
            answer = client.post(
                "files", data={"purpose": "fine-tune"}, files={"file": (path.name, file)}
            )
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}") from None
    sent = server_answer(answer)
    while sent["status"] == "uploaded":
        time.sleep(_LOOK_SECONDS)
        sent = server_answer(client.get(f"files/{sent['id']}"))
    details = sent["status_details"]
    if sent["status"] != "processed":
        raise ServingError(f"'{path}' cannot be used: {details}")
    if details:
        print(f"'{path}': {details}", file=sys.stderr)
    return str(sent["id"])
