"""Make, list, show and stop the fine-tuning jobs of a server that was started with --jobs.

gossamer jobs create rows.jsonl --method dora --set rank=8 --train max_steps=200 --name pirate
                                       send rows and learn from them; prints the job's ID.
                                       With --follow: waits; exit code 1 unless it succeeds
gossamer jobs list                     the newest jobs, how far they are, and why they wait
gossamer jobs show ID                  all of one job, as JSON
gossamer jobs logs ID                  what happened to it
gossamer jobs logs ID --follow         ... and what happens, until it ends
gossamer jobs cancel ID                end it
gossamer jobs pause ID                 stop it so that it can go on
gossamer jobs resume ID                let it go on
gossamer jobs keep ID NAME             serve what it has made as NAME too
gossamer jobs verify MODEL --follow    prove, as a job, that a result is served as it was trained
gossamer jobs export MODEL             turn a result into a whole model, as a job, to download
gossamer jobs db check                 compare the tables in --data-dir with this version's
gossamer jobs db upgrade               bring them up to date, as a server does when it starts

ID is what `list` shows, or the end of it.
"""

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from gossamer.cli.parts import job_tables, new_job, result_jobs
from gossamer.cli.parts.server_answer import server_answer
from gossamer.cli.parts.tables import print_table
from gossamer.errors import ServingError, UnknownNameError, UsageError

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "GOSSAMER_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"
_MAX_LOGS = 10_000
_ACTIONS = ("cancel", "pause", "resume")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="show the newest jobs")
    listing.add_argument("--limit", type=int, default=20, metavar="N", help="at most [default: 20]")
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    making = actions.add_parser("create", help="send rows and make a job of them")
    new_job.add_arguments(making)
    about_results = result_jobs.add_arguments(actions)
    named = [
        actions.add_parser("show", help="print all of a job as JSON"),
        actions.add_parser("logs", help="print what happened to a job"),
        actions.add_parser("cancel", help="end a job"),
        actions.add_parser("pause", help="stop a job so that it can go on"),
        actions.add_parser("resume", help="let a job go on"),
        actions.add_parser("keep", help="serve the model of a job under a name of your choice"),
    ]
    for action in (making, named[1], *about_results):
        action.add_argument(
            "--follow", action="store_true", help="go on until the job ends, as it happens"
        )
    for action in named:
        action.add_argument("id", metavar="ID", help="the job, or the end of its name")
    named[-1].add_argument("name", metavar="NAME", help="what it is to be called")
    for action in (listing, making, *named, *about_results):
        action.add_argument(
            "--url", default=DEFAULT_URL, help=f"address of the server [default: {DEFAULT_URL}]"
        )
        action.add_argument(
            "--api-key", metavar="KEY", help=f"of the server; default: ${KEY_VARIABLE}"
        )
    job_tables.add_arguments(actions)


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    if args.action == "db":
        return job_tables.run(args)
    import httpx

    from gossamer.serving.client.address import api_root, key_headers

    headers = key_headers(args.api_key or os.environ.get(KEY_VARIABLE))
    try:
        with httpx.Client(base_url=api_root(args.url), headers=headers, timeout=60) as client:
            return _run(args, client)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServingError(f"the server at {args.url} does not answer: {error}") from None


def _run(args: argparse.Namespace, client: "httpx.Client") -> int:
    if args.action == "list":
        return _list(args, client)
    if args.action in ("create", *result_jobs.ACTIONS):
        make = new_job.create if args.action == "create" else result_jobs.create
        job_id = make(args, client)
        print(job_id, flush=True)
        if not args.follow:
            return 0
        _follow(client, job_id)
        job = server_answer(client.get(f"fine_tuning/jobs/{job_id}"))
        return 0 if job["status"] == "succeeded" else 1
    job_id = _whole_id(client, args.id)
    if args.action in _ACTIONS:
        job = server_answer(client.post(f"fine_tuning/jobs/{job_id}/{args.action}"))
        print(f"{job['id']} {job['status']}")
    elif args.action == "show":
        print(json.dumps(server_answer(client.get(f"fine_tuning/jobs/{job_id}")), indent=2))
    elif args.action == "keep":
        _keep(client, job_id, args.name)
    elif args.follow:
        _follow(client, job_id)
    else:
        events = server_answer(client.get(f"fine_tuning/jobs/{job_id}/events?limit={_MAX_LOGS}"))
        for event in reversed(events["data"]):
            _print_event(event)
    return 0


def _keep(client: "httpx.Client", job_id: str, name: str) -> None:
    job = server_answer(client.get(f"fine_tuning/jobs/{job_id}"))
    if job["fine_tuned_model"] is None:
        raise UsageError(f"{job_id} is {job['status']}; only a job that has succeeded has a model")
    path = client.base_url.join(f"../studio/api/models/{job['fine_tuned_model']}/alias")
    model = server_answer(client.post(path, json={"alias": name}))
    print(f"{model['id']} is served as {model['alias']}, too")


def _list(args: argparse.Namespace, client: "httpx.Client") -> int:
    jobs = server_answer(client.get(f"fine_tuning/jobs?kind=all&limit={args.limit}"))["data"]
    if args.json:
        print(json.dumps(jobs, indent=2))
        return 0
    columns = [
        "id",
        "status",
        "method or kind",
        "step",
        "left",
        "loss",
        "held out",
        "result or reason",
    ]
    print_table(columns, [_row(job) for job in jobs])
    return 0


def _row(job: dict[str, Any]) -> list[str]:
    progress = job["progress"]
    ended = job["fine_tuned_model"] or (job["error"] or {}).get("message")
    ended = ended or result_jobs.result_words(job) or progress["reason"]
    steps = "-" if progress["steps"] is None else f"{progress['step']}/{progress['steps']}"
    return [
        job["id"],
        job["status"],
        result_jobs.kind_words(job),
        steps,
        "-" if progress["seconds_left"] is None else f"{progress['seconds_left']:.0f} s",
        _number(progress["train_loss"]),
        _number(progress["valid_loss"]),
        ended or "-",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _whole_id(client: "httpx.Client", text: str) -> str:
    """The identifier that ends so, among the newest jobs; a whole one is not looked for."""
    if text.startswith("ftjob-"):
        return text
    jobs = server_answer(client.get("fine_tuning/jobs?kind=all&limit=1000"))["data"]
    found = [job["id"] for job in jobs if job["id"].endswith(text)]
    if len(found) != 1:
        raise UnknownNameError.among("job", text, [job["id"] for job in jobs])
    return str(found[0])


def _follow(client: "httpx.Client", job_id: str) -> None:
    headers = {"Accept": "text/event-stream"}
    path = f"fine_tuning/jobs/{job_id}/events"
    with client.stream("GET", path, headers=headers, timeout=None) as response:
        if response.status_code >= 400:
            response.read()
            server_answer(response)
        for line in response.iter_lines():
            if line.startswith("data: "):
                _print_event(json.loads(line.removeprefix("data: ")))


def _print_event(event: dict[str, Any]) -> None:
    from datetime import datetime

    moment = datetime.fromtimestamp(event["created_at"]).astimezone()
    mark = "" if event["level"] == "info" else f"{event['level']}: "
    print(f"{moment:%H:%M:%S}  {mark}{event['message']}", flush=True)
