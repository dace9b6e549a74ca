"""`gossamer cluster simulate`: ways of dividing requests among replicas, side by side."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, get_args

from gossamer.cli.parts.options import Options
from gossamer.cli.parts.tables import print_table
from gossamer.cluster.placement.settings import PolicyName, SimulationSettings

if TYPE_CHECKING:
    from gossamer.cluster.placement.simulation import SimulatedTraffic

TRAFFIC = Options(SimulationSettings)
_COLUMNS = (
    "policy", "pool %", "host %", "cold %", "of it first asked %", "cold loads/s", "imbalance",
    "start mean ms", "p99 ms",
)  # fmt: skip

_RIVALS = ("rivals' parts %", "most / least")


def add_arguments(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `simulate` among the sub-commands of `gossamer cluster`."""
    parser = actions.add_parser(
        "simulate",
        help="compare ways of dividing requests among replicas that are only pretended: where "
        "adapters are found, cold loads, how evenly replicas are used, and how long requests wait "
        "for their start",
    )
    TRAFFIC.add_to(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Play the traffic once for each policy and print what came of it."""
    from gossamer.cluster.placement.simulation import simulate

    settings = TRAFFIC.read(args)
    names = settings.policy or get_args(PolicyName)
    outcomes = [simulate(settings, name) for name in names]
    if args.json:
        found = {"settings": settings.model_dump(mode="json"), "policies": []}
        print(json.dumps({**found, "policies": [asdict(each) for each in outcomes]}, indent=2))
        return 0
    total = settings.requests * settings.replicas
    seconds = outcomes[0].seconds
    print(
        f"{settings.replicas} replicas, {settings.adapters:,} adapters, Zipf {settings.zipf:g}, "
        f"{total:,} requests, of which the last {total - total // 2:,} count: "
        f"{(total - total // 2) / seconds:.3g} a second\n"
    )
    columns = (*_COLUMNS, *_RIVALS) if settings.rival else _COLUMNS
    print_table(columns, map(_row, outcomes))
    return 0


def _row(outcome: "SimulatedTraffic") -> list[str]:
    parts = (outcome.pool, outcome.host, outcome.cold, outcome.first)
    return [
        outcome.policy,
        *(f"{100 * part:.1f}" for part in parts),
        f"{outcome.cold_per_second:.3g}",
        f"{outcome.imbalance:.2f}",
        f"{1000 * outcome.start_mean:.1f}",
        f"{1000 * outcome.start_p99:.0f}",
        *(_of_rivals(outcome.rivals) if outcome.rivals else ()),
    ]


def _of_rivals(parts: Sequence[float]) -> tuple[str, str]:
    shown = " / ".join(f"{100 * part:.1f}" for part in parts)
    return shown, f"{max(parts) / min(parts):.2f}" if min(parts) > 0 else "no end"
