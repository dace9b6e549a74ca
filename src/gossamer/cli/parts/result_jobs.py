"""`gossamer jobs verify` and `export`: proofs and exports of results, as jobs of a server."""

import argparse
from typing import TYPE_CHECKING, Any

from gossamer.cli.parts.server_answer import server_answer

if TYPE_CHECKING:
    import httpx

ACTIONS = ("verify", "export")
_PATHS = {"verify": "verifications", "export": "exports"}


def add_arguments(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> list[argparse.ArgumentParser]:
    """Declare the sub-commands; returns them, which lack the options of a server."""
    verify = actions.add_parser("verify", help="prove that a result is served as it was trained")
    export = actions.add_parser("export", help="turn a result into a whole model or a plain LoRA")
    for action in (verify, export):
        action.add_argument("model", metavar="MODEL", help="the result: its name, or yours for it")
    export.add_argument(
        "--format",
        choices=("merged", "lora"),
        default="merged",
        help="the base model with the adapter folded in, or an adapter for PEFT alone "
        "[default: merged]",
    )
    export.add_argument("--rank", type=int, metavar="N", help="of a LoRA for changes of weights")
    export.add_argument(
        "--max-error", type=float, metavar="X", help="largest relative error of such a LoRA"
    )
    return [verify, export]


def create(args: argparse.Namespace, client: "httpx.Client") -> str:
    """Ask the server for such a job; returns its identifier."""
    body = {"model": args.model}
    if args.action == "export":
        wanted = {"format": args.format, "rank": args.rank, "max_error": args.max_error}
        body |= {name: value for name, value in wanted.items() if value is not None}
    path = client.base_url.join(f"../studio/api/{_PATHS[args.action]}")
    return str(server_answer(client.post(path, json=body))["id"])


def kind_words(job: dict[str, Any]) -> str:
    """What a job does, in a word or two: the method of a tuning run."""
    if job.get("kind") == "compare":
        return f"{len(job['comparison']['methods'])} methods"
    if job.get("kind") in ACTIONS:
        return str(job["kind"])
    return str(job["adapter"].get("method", "-"))


def result_words(job: dict[str, Any]) -> str | None:
    """What a job has found or made, if it is no model of the job's own; None: nothing yet."""
    result = job.get("result") or {}
    if "export" in result:
        return f"{result['export']['what']} exports/{job['id']}/{result['export']['name']}"
    if "passed" in result:
        return "as trained" if result["passed"] else "answers differ"
    if "models" in result:
        return f"{len(result['models'])} models"
    return None
