"""A process that torchrun starts: carries out the runs of a file, one after the other.

Usage: torchrun_worker.py MODEL DATA OUTPUT ORDERS; each run goes to OUTPUT/NAME.
"""

import json
import sys
from pathlib import Path

from runs import quiet_tune


def main(model: str, data: str, output: str, orders: str) -> None:
    """Do all runs."""
    for name, settings in json.loads(Path(orders).read_text()).items():
        quiet_tune(model, data, Path(output) / name, **settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
