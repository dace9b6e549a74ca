"""Other servers' LoRA kernels beside ours: bytes, launches and machine code, on no GPU.

    mkdir PEERS; unzip vllm-*.whl 'vllm/lora/*' 'vllm-*' -d PEERS
    unzip sglang-*.whl 'sglang/kernels/ops/lora/*' 'sglang/srt/lora/*' 'sglang-*' -d PEERS
    python benchmarks/gpu/peers_report.py --peers PEERS --output DIR

Every implementation gets the same decode steps at Llama-3-8B's shapes (`peers.work`). Their own
host code, unchanged, launches their own kernels: to be compiled for each architecture, and, with
fewer tokens, in Triton's interpreter, to compare results and to count the bytes touched.
Nothing here says how fast they are.
"""

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton

from peers import gossamer_lora, sglang_lora, sglang_v2_lora, vllm_lora
from peers.tables import as_markdown
from peers.work import LLAMA_3_8B, Factors, Group, Work

IMPLEMENTATIONS = (gossamer_lora, vllm_lora, sglang_lora, sglang_v2_lora)
LAUNCHED = (Work("equal 16", (16,) * 64, 16), Work("mixed 64/32/16/8", (64, 32, 16, 8) * 16, 64))
"""64 tokens, each with an adapter of its own."""
COUNTED = (Work("equal 16", (16,) * 4, 16), Work("mixed 64/32/16/8", (64, 32, 16, 8), 64))
"""The same for fewer tokens: what is touched for a token is the same for any number of them."""


def load(root: Path, arch: int) -> dict[str, str]:
    """Make the peers importable; returns the versions found."""
    return {"vllm": vllm_lora.load(root, arch), "sglang": sglang_v2_lora.load(root, arch)}


def compiled(groups: tuple[Group, ...], arch: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each launch of each implementation, in order."""
    from compile_only import as_json, compile_only

    for work in LAUNCHED:
        for group in groups:
            factors = Factors(group, work, torch.bfloat16, "meta")
            for implementation in IMPLEMENTATIONS:
                with compile_only(arch, torch_too=True) as launches:
                    prepared = implementation.prepare(factors)
                    launches.clear()
                    prepared.launch()
                for launch in launches:
                    row = as_json(launch)
                    row["cleared_bytes"] = sum(
                        4 * math.prod(shape) for _, shape in row["tensors"].values()
                    ) * (launch.name == "zero_")
                    kept = ("name", "grid", "constants", "code", "cleared_bytes")
                    yield {
                        "work": work.label, "group": group.name, "arch": arch,
                        "implementation": implementation.NAME, **{k: row[k] for k in kept},
                    }  # fmt: skip


def counted(groups: tuple[Group, ...]) -> Iterator[dict[str, Any]]:
    """Yield a row for each implementation: bytes per token, and the error of its result."""
    from memory_traffic import SECTOR, counting

    for work in COUNTED:
        for group in groups:
            factors = Factors(group, work, torch.float16, "cpu")
            for implementation in IMPLEMENTATIONS:
                prepared = implementation.prepare(factors)
                with counting(prepared.buffers) as traffic:
                    prepared.launch()
                tokens = work.tokens
                yield {
                    "work": work.label, "group": group.name,
                    "implementation": implementation.NAME, "error": factors.error(prepared.y),
                    "least_row_bytes": factors.least_bytes / tokens,
                    "bytes": {
                        kind: {
                            "read": SECTOR * found.sectors("read") / tokens,
                            "written": SECTOR * found.sectors("written") / tokens,
                            **{f"asked_{how}": n / tokens for how, n in found.asked.items()},
                        }
                        for kind, found in traffic.items()
                    },
                }  # fmt: skip


def main() -> int:
    """Run both parts in processes of their own, write the report, and return the status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True, help="where their wheels are unpacked")
    parser.add_argument("--output", type=Path, help="folder for the JSON file and the tables")
    parser.add_argument("--arch", type=int, nargs="+", default=[90, 80], metavar="CC")
    parser.add_argument("--groups", nargs="+", default=[g.name for g in LLAMA_3_8B])
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    groups = tuple(g for g in LLAMA_3_8B if g.name in arguments.groups)
    if arguments.part:
        load(arguments.peers, 90 if arguments.part == "count" else int(arguments.part))
        rows = (
            counted(groups) if arguments.part == "count" else compiled(groups, int(arguments.part))
        )
        print(json.dumps(list(rows)))
        return 0
    report = {
        "triton": triton.__version__, "versions": load(arguments.peers, 90),
        "licences": "vLLM and SGLang: Apache License 2.0; none of their code is part of this file",
        "compiled": [row for arch in arguments.arch for row in _part(str(arch), arguments)],
        "counted": _part("count", arguments),
    }  # fmt: skip
    tables = as_markdown(report)
    print(tables)
    if arguments.output:
        name = arguments.output / f"gpu-peers_triton-{triton.__version__}_{datetime.date.today()}"
        name.with_name(name.name + ".json").write_text(json.dumps(report) + "\n")
        name.with_name(name.name + ".md").write_text(tables + "\n")
    return int(any(row["error"] > 2e-3 for row in report["counted"]))


def _part(part: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one part: kernels are interpreted or compiled for the life of a process."""
    environment = {**os.environ, "TRITON_INTERPRET": str(int(part == "count"))}
    command = [sys.executable, __file__, "--peers", arguments.peers, "--part", part]
    done = subprocess.run(
        [*command, "--groups", *arguments.groups], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"part {part} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
