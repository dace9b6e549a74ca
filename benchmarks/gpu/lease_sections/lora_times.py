"""Grouped LoRA at Llama-3-8B's shapes: time and bytes per second, ours and other servers'."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch

from lease_sections.frame import Found, Lease
from lease_sections.timing import copies_for, seconds_each
from peers import gossamer_lora, sglang_lora, sglang_v2_lora, vllm_lora
from peers.work import LLAMA_3_8B, TOY, Factors, Group, Work

WORKS = (
    Work("1 shared by 64", (16,), 16, tokens_each=64),
    Work("1 x r16", (16,), 16),
    Work("8 x r16", (16,) * 8, 16),
    Work("32 x r16", (16,) * 32, 16),
    Work("64 x r16", (16,) * 64, 16),
    Work("64 mixed", (64, 32, 16, 8) * 16, 64),
)
TOY_WORKS = (Work("64 x r16", (16,) * 2, 16), Work("64 mixed", (8, 4), 16))
MOST_ERROR = 1e-2
"""Of a result in bfloat16, relative to what is added: most of it comes from rounding the result."""
COMPARED = ("64 x r16", "64 mixed")
"""What the peers get as well, and of which shrink and expand are timed apart."""


def ours(lease: Lease) -> Found:
    """All works."""
    works = TOY_WORKS if lease.dry else WORKS
    return {gossamer_lora.NAME: _measured(gossamer_lora, works, lease)}


def theirs(lease: Lease) -> Found:
    """Those works on which all are compared. Raises `FileNotFoundError` without their files."""
    if lease.peers is None:
        raise FileNotFoundError("no folder of other servers' files was given (--peers)")
    capability = 90
    if lease.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability()
        capability = 10 * major + minor
    versions = {
        "vllm": vllm_lora.load(lease.peers, capability),
        "sglang": sglang_v2_lora.load(lease.peers, capability),
    }
    works = [w for w in (TOY_WORKS if lease.dry else WORKS) if w.label in COMPARED]
    peers = (vllm_lora, sglang_lora, sglang_v2_lora)
    return {"versions": versions} | {peer.NAME: _measured(peer, works, lease) for peer in peers}


def _measured(implementation: ModuleType, works: Sequence[Work], lease: Lease) -> Found:
    """By work and group, and the sum of the groups as "layer"."""
    groups = TOY if lease.dry else LLAMA_3_8B
    found: dict[str, Any] = {}
    for work in works:
        of = {group.name: _one(implementation, group, work, lease) for group in groups}
        timed = [entry for entry in of.values() if "us" in entry]
        if len(timed) == len(of):
            us = sum(entry["us"] for entry in timed)
            num_bytes = sum(entry["least_bytes"] for entry in timed)
            of["layer"] = {"us": us, "least_bytes": num_bytes, "gb_s": num_bytes / us / 1e3}
        found[work.label] = of
    return found


def _one(implementation: ModuleType, group: Group, work: Work, lease: Lease) -> Found:
    # The interpreter multiplies bfloat16 wrongly; ours and theirs take float16 as well.
    dtype = torch.float16 if lease.dry else torch.bfloat16
    device = str(lease.device)
    first = Factors(group, work, dtype, device)
    try:
        prepared = [implementation.prepare(first)]
        prepared[0].launch()
        error = first.error(prepared[0].y) if lease.has_data else 0.0
        if not error < MOST_ERROR:
            raise ValueError(f"{implementation.NAME}, {group.name}, {work.label}: {error:.1e} off")
        # A launch that is timed alone must not find its rows in a cache either.
        apart = prepared[0].parts if work.label in COMPARED else {}
        round_bytes = min(first.part_bytes.values()) if apart else first.least_bytes
        for seed in range(1, copies_for(round_bytes, lease)):
            prepared.append(implementation.prepare(Factors(group, work, dtype, device, seed)))
        seconds = seconds_each([one.launch for one in prepared], lease)
        parts = {
            part: _part(first.part_bytes[part], [one.parts[part] for one in prepared], lease)
            for part in apart
        }
    except NotImplementedError as reason:
        return {"not_run": str(reason)}
    y_bytes = 2 * first.y.nbytes
    return {
        "us": 1e6 * seconds, "error": error, "least_bytes": first.least_bytes,
        "gb_s": 1e-9 * (first.least_bytes + first.x.nbytes + y_bytes) / seconds, **parts,
    }  # fmt: skip


def _part(num_bytes: int, launches: Sequence[Callable[[], object]], lease: Lease) -> Found:
    """One of the two launches alone; bytes of rows only."""
    seconds = seconds_each(launches, lease)
    return {"us": 1e6 * seconds, "least_bytes": num_bytes, "gb_s": 1e-9 * num_bytes / seconds}


def says(found: Found) -> str:
    """The time of a layer, by implementation and work, and of shrink + expand by group."""
    parts = []
    for name, works in found.items():
        if name != "versions":
            times = [
                f"{label} {of['layer']['us']:.0f} us"
                for label, of in works.items()
                if "layer" in of
            ]
            parts.append(f"{name}: {', '.join(times)}")
            parts += [
                f"{label} apart: {', '.join(_apart(groups))}"
                for label, groups in works.items()
                if _apart(groups)
            ]
    return "; ".join(parts)


def _apart(groups: Found) -> list[str]:
    return [
        f"{group} {of['shrink']['us']:.1f} + {of['expand']['us']:.1f} us"
        for group, of in groups.items()
        if "shrink" in of
    ]
