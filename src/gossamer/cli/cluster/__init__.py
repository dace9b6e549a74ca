"""Serve one base on several replicas, each adapter where it already is; plan, publish.

gossamer cluster simulate --replicas 64 --adapters 100000 --zipf 1.0
                                       what ways of dividing requests cost, on pretended replicas
gossamer cluster publish runs/mine --catalog sqlite:////shared/catalog.db
                                       let all replicas serve it under its name, from now on
gossamer cluster withdraw mine --catalog sqlite:////shared/catalog.db
                                       ... or no longer
gossamer cluster prune --catalog sqlite:////shared/catalog.db
                                       remove the files of former versions, a day after their end
gossamer cluster serve smollm2-135m --catalog sqlite:////shared/catalog.db --replicas 2
                                       start them, on Ray Serve; Ctrl-C or SIGTERM ends them
gossamer cluster status                what each replica does
"""

import argparse

from gossamer.cli.cluster import publish, serve, simulate

_RUNS = {
    "simulate": simulate.run,
    "publish": publish.run,
    "withdraw": publish.withdraw,
    "prune": publish.prune,
    "serve": serve.run,
    "status": serve.show,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for module in (simulate, publish, serve):
        module.add_arguments(actions)


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    return _RUNS[args.action](args)
