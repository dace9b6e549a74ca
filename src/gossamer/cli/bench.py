"""Put a server under load and tell what its users felt.

gossamer bench serve --url http://127.0.0.1:8000 --rate 2 --duration 60 --output load/
gossamer bench serve --model smollm2-135m --adapter-folder runs/ --adapters 4

Works against any OpenAI-compatible server. Requests come as in S-LoRA's evaluation: which adapter
by a power law (or Zipf), when by a Gamma process, how long by uniform ranges; every prompt is
another one. With --model a server is started for the test and stopped after it. The folder --output
receives result.json, table.md and load.png.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.cli.parts.options import Options
from gossamer.errors import UsageError
from gossamer.extras import require
from gossamer.serving.loadtest.client import ClientSettings
from gossamer.serving.loadtest.workload import Workload
from gossamer.serving.settings import ServeSettings

if TYPE_CHECKING:
    from gossamer.serving.loadtest.outcomes import LoadTestSummary, Sample

KEY_VARIABLE = "GOSSAMER_API_KEY"
WORKLOAD = Options(Workload, title="workload")
CLIENT = Options(ClientSettings, title="client")
SERVER = Options(
    ServeSettings,
    title="the server started for --model",
    fields=("device", "dtype", "backend", "quantization"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-command and its options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    serve = actions.add_parser("serve", help="play a workload against a server")
    target = serve.add_mutually_exclusive_group(required=True)
    target.add_argument("--url", help="address of a running server")
    target.add_argument("--model", metavar="NAME", help="start a server for this base model")
    serve.add_argument(
        "--adapter-folder", metavar="DIR", type=Path, help="adapters of the started server"
    )
    SERVER.add_to(serve)
    serve.add_argument(
        "--names", metavar="A,B,...", help="models to ask for; default: all that the server lists"
    )
    serve.add_argument("--api-key", metavar="KEY", help=f"of the server; default: ${KEY_VARIABLE}")
    serve.add_argument("--output", metavar="DIR", type=Path, help="folder for JSON, table and plot")
    WORKLOAD.add_to(serve)
    CLIENT.add_to(serve)


def run(args: argparse.Namespace) -> int:
    """Play the workload; exit code 1 if nothing finished."""
    if args.adapter_folder is not None and args.url is not None:
        raise UsageError("--adapter-folder is for --model; a running server has its own adapters")
    started = SERVER.given(args)
    if started and args.url is not None:
        option = SERVER.option(next(iter(started)))
        raise UsageError(f"{option} is for --model; a running server has its own settings")
    client = CLIENT.read(args)
    _check_output(args.output)
    with _server(args) as url:
        names = _names(args, url)
        workload = WORKLOAD.read(args, adapters=len(names))
        samples = _play(args, url, names, workload, client)

    from gossamer.serving.loadtest.outcomes import summarize

    summary = summarize(samples, client.slo)
    _print(summary, client.slo)
    for problem in sorted({s.problem for s in samples if s.problem})[:5]:
        print(f"  {problem}", file=sys.stderr)
    if args.output is not None:
        from gossamer.serving.loadtest.report import write_report

        write_report(args.output, workload, client, samples, summary)
        print(args.output)
    return 0 if summary.finished else 1


def _play(
    args: argparse.Namespace, url: str, names: list[str], workload: Workload, client: ClientSettings
) -> "list[Sample]":
    from tqdm import tqdm

    from gossamer.serving.loadtest.run import play

    if workload.num_requests == 0:
        raise UsageError(
            f"rate {workload.rate:g} for {workload.duration:g} s makes no request; raise either"
        )
    with tqdm(total=workload.num_requests, unit="request", disable=None) as bar:

        def count(sample: "Sample") -> None:
            bar.update()

        return play(url, names, workload, client, api_key=_key(args), on_sample=count)


def _names(args: argparse.Namespace, url: str) -> list[str]:
    from gossamer.serving.client.address import served_models

    listed = served_models(url, _key(args))
    if not args.names:
        return listed
    names = [name.strip() for name in args.names.split(",") if name.strip()]
    missing = [name for name in names if name not in listed]
    if missing:
        raise UsageError(f"--names: the server does not offer {', '.join(missing)}")
    return names


def _key(args: argparse.Namespace) -> str | None:
    return args.api_key or os.environ.get(KEY_VARIABLE)


@contextmanager
def _server(args: argparse.Namespace) -> Iterator[str]:
    if args.url is not None:
        yield args.url
        return
    from gossamer.serving.client.child_server import child_server

    options = [
        word for name, value in SERVER.given(args).items() for word in (SERVER.option(name), value)
    ]
    with child_server(args.model, args.adapter_folder, options) as url:
        yield url


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    require("--output", "plot")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--output {output} is in use; give an empty or a new folder")


def _print(summary: "LoadTestSummary", slo: float) -> None:
    from gossamer.serving.loadtest.report import table

    for name, value in table(summary, slo):
        print(f"{name:<28}{value}")
