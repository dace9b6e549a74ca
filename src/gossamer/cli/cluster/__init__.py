"""Serve one base on several replicas, each adapter where it already is; plan, publish.

gossamer cluster simulate --replicas 64 --adapters 100000 --zipf 1.0
                                       what ways of dividing requests cost, on pretended replicas
gossamer cluster publish runs/mine --catalog sqlite:////shared/catalog.db
                                       let all replicas serve it under its name, from now on
"""

import argparse

from gossamer.cli.cluster import publish, simulate

_ACTIONS = {"simulate": simulate, "publish": publish}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for module in _ACTIONS.values():
        module.add_arguments(actions)


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    return _ACTIONS[args.action].run(args)
