"""`gossamer cluster serve` and `status`: replicas on Ray Serve, and what each of them does."""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from gossamer.cli.parts.options import Options
from gossamer.cli.parts.server_answer import server_answer
from gossamer.cli.parts.tables import print_table
from gossamer.cli.serve import ENGINE, HTTP, KEY_VARIABLE, LIMITS, keys_from_environment
from gossamer.cluster.replicas.settings import ClusterSettings
from gossamer.errors import ServingError, SettingError, cut
from gossamer.extras import require

CLUSTER = Options(
    ClusterSettings,
    title="replicas and adapters",
    names={"cache_gib": "cache-size"},
    metavars={
        "catalog": "URL",
        "store": "PLACE",
        "cache": "DIR",
        "cache_gib": "GiB",
        "ray_address": "ADDRESS",
    },
)
DEFAULT_URL = "http://127.0.0.1:8000"
_COLUMNS = (
    "replica", "state", "running", "waiting", "from here", "adapters", "in pool %", "in host %",
    "warmed", "fetched", "tokens", "blocks free %",
)  # fmt: skip


def add_arguments(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `serve` and `status` among the sub-commands of `gossamer cluster`."""
    serving = actions.add_parser(
        "serve",
        help="start replicas of a base model on Ray Serve, and serve the adapters of a catalog or "
        "of folders that all of them see",
    )
    CLUSTER.add_to(serving)
    ENGINE.add_to(serving)
    LIMITS.add_to(serving)
    HTTP.add_to(serving)
    status = actions.add_parser("status", help="show what each replica of a cluster does")
    status.add_argument(
        "--url", default=DEFAULT_URL, help=f"address of the cluster [default: {DEFAULT_URL}]"
    )
    status.add_argument(
        "--api-key", metavar="KEY", help=f"an administrator's; default: ${KEY_VARIABLE}"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    require("cluster serve", "cluster")
    serving = ENGINE.read(args, adapter_limits=LIMITS.read(args))
    http = HTTP.read(args, **keys_from_environment())
    if http.port == 0:
        raise SettingError("--port 0: replicas behind one address need a port that is known")
    cluster = CLUSTER.read(args)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")

    from gossamer.cluster.replicas.app import start_cluster, stop_cluster

    started, stop = time.monotonic(), threading.Event()
    is_ready = False

    def end(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        if not is_ready:
            # Out of whatever Ray is waiting for.
            raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    start_cluster(serving, cluster, http)
    try:
        is_ready = True
        seconds = time.monotonic() - started
        print(
            f"gossamer: ready at http://{http.host}:{http.port} with "
            f"{_counted(cluster.replicas, 'replica')} of {serving.model} after {seconds:.1f} s",
            flush=True,
        )
        stop.wait()
        print("gossamer: stopping", file=sys.stderr, flush=True)
    finally:
        stop_cluster(cluster)
    return 0


def show(args: argparse.Namespace) -> int:
    """Print a line for each replica."""
    import httpx

    key = args.api_key or os.environ.get(KEY_VARIABLE, "").split(",")[0].strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=args.url, headers=headers, timeout=30) as client:
            answer = client.get("/v1/cluster")
    except httpx.InvalidURL as error:
        raise SettingError(
            f"--url {cut(args.url)}: {error}; give one such as {DEFAULT_URL}"
        ) from None
    except httpx.HTTPError as error:
        raise ServingError(f"no answer from {args.url}: {error}") from None
    if answer.status_code == 404:
        raise ServingError(f"{args.url} is one server, not a cluster of replicas")
    found = server_answer(answer)
    counts = (
        _counted(len(found["replicas"]), "replica"),
        _counted(found["adapters"], "adapter"),
        f"{_counted(found['open_requests'], 'request')} through this ingress",
    )
    print(f"{found['model']}: {', '.join(counts)}\n")
    print_table(_COLUMNS, map(_row, found["replicas"]))
    return 0


def _row(figures: dict[str, Any]) -> list[str]:
    hits = figures["adapter_hits"]
    total = sum(hits.values())
    free = figures["blocks_free"] + figures["blocks_cached"]
    return [
        str(figures["rank"]),
        "healthy" if figures["healthy"] else "stopped",
        str(figures["num_running"]),
        str(figures["num_waiting"]),
        str(figures["calls_from_here"]),
        str(figures["adapters_resident"]),
        _percent(hits.get("resident", 0), total),
        _percent(hits.get("host", 0), total),
        _warmed(figures.get("warmed", 0), figures.get("to_warm", 0)),
        str(figures.get("cache_fetches", 0)),
        str(figures["generated_tokens"]),
        _percent(free, figures["blocks_total"]),
    ]


def _warmed(done: int, left: int) -> str:
    """The adapters that were loaded before they were asked for; and how many may follow."""
    return f"{done} of {done + left}" if left else str(done)


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.0f}" if total else "–"
