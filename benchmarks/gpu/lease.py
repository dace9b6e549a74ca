"""All that is to be known from a GPU, in one run of under ten minutes on a rented machine.

    python benchmarks/gpu/lease.py --output DIR --peers PEERS
    python benchmarks/gpu/lease.py --output DIR --dry

A section that no longer fits is skipped, one that fails does not stop the others; after each, what
has been found so far is in DIR/result.json. Last come the bars, reached, missed or not measured.
Two ways to find mistakes before the time counts, whose figures mean nothing: `--dry` runs every
section at toy sizes on the CPU, `--compile-for 90` those of kernels alone at full size on tensors
without data, compiling what is launched (into `TRITON_CACHE_DIR`, for later).
"""

import argparse
import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

PLANNED_S = 570
ROOT = Path(__file__).parents[2]
# What sections use of this project beside the package; the package too, if it is not installed.
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tests/helpers"), str(ROOT / "src")]


def main() -> int:
    """Run the sections; returns 1 if one has failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--peers", type=Path, help="where vLLM's and SGLang's wheels are unpacked")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="leave the others out")
    parser.add_argument("--seconds", type=float, default=PLANNED_S, help="when the time is over")
    parser.add_argument("--dry", action="store_true", help="toy sizes, on the CPU")
    parser.add_argument(
        "--compile-for", type=int, metavar="CC", help="kernels alone, full size, without a GPU"
    )
    arguments = parser.parse_args()
    if arguments.dry:
        # Read when Triton is imported, which the sections do.
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    from lease_sections.bars import table
    from lease_sections.frame import Lease, run_all, write
    from lease_sections.plan import SECTIONS

    device = "cpu" if arguments.dry else "meta" if arguments.compile_for else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --dry and --compile-for try the sections without one")
    names = [section.name for section in SECTIONS]
    unknown = set(arguments.only or ()) - set(names)
    if unknown:
        parser.error(f"no section '{min(unknown)}'; there are {', '.join(names)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    lease = Lease(
        device=torch.device(device),
        dry=arguments.dry,
        output=arguments.output,
        ends=time.monotonic() + arguments.seconds,
        peers=arguments.peers,
    )
    chosen = [s for s in SECTIONS if not arguments.only or s.name in arguments.only]
    with ExitStack() as stack:
        if arguments.compile_for:
            from compile_only import compile_only

            launches = stack.enter_context(compile_only(arguments.compile_for))
        run_all(chosen, lease)
        if arguments.compile_for:
            print(f"{len({id(launch.binary) for launch in launches})} kernels compiled")
    bars = table(lease)
    print(f"\n{bars}")
    lease.results["bars"] = {"lines": bars.splitlines()}
    write(lease)
    states = {name: found["state"] for name, found in lease.results.items() if "state" in found}
    print(json.dumps(states))
    return int("failed" in states.values())


if __name__ == "__main__":
    sys.exit(main())
