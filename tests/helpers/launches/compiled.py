"""Runs a step on tensors without data, in a process where kernels are compiled, not interpreted.

`bodies` names functions of `launches.meta_steps`, each of which prepares a step and returns it as a
function; what that launches comes back, with the machine code's figures.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


class NotCompilable(Exception):
    """What the step raised."""


def compiled(
    bodies: Sequence[str], cache: Path, *, capability: int = 90, torch_too: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Return the launches of each of `bodies`, in order; see `compile_only.as_json`.

    cache: folder for Triton's compiled kernels. torch_too: also what torch itself would launch.
    Raises `NotCompilable` with the last line of what the process said.
    """
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    paths = [ROOT / "src", ROOT / "benchmarks/gpu", ROOT / "tests/helpers"]
    environment |= {
        "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "launches.compiled", str(capability), str(int(torch_too)), *bodies],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise NotCompilable(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def main(capability: int, torch_too: bool, bodies: Sequence[str]) -> None:
    """Print the launches of each body as JSON."""
    from compile_only import as_json, compile_only

    steps = importlib.import_module("launches.meta_steps")
    found = {}
    for name in bodies:
        with compile_only(capability, torch_too=torch_too) as launches:
            body = getattr(steps, name)()
            launches.clear()
            body()
        found[name] = [as_json(launch) for launch in launches]
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3:])
