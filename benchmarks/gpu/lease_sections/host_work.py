"""What a step takes beside its model, with the engine's own loop, when the next is launched early.

The model is a pause of the device as long as Llama-3-8B's step, so that all else can be told apart.
"""

import statistics
import time
from argparse import Namespace
from collections.abc import Callable

import torch

from gossamer.serving.device.make import make_device
from lease_sections.frame import Found, Lease
from lease_sections.timing import seconds_each

SEQUENCES, MODEL_MS = 64, 7.6
CYCLES_PER_MS = 1_700_000
"""About; how long the pause is gets measured."""


def host(lease: Lease) -> Found:
    """Medians of whole steps, and of the pause; the difference is what nothing hides.

    That counts what the device does to choose tokens and to take arrays in as the host's.
    """
    # Beside this folder.
    from host_step import Machine

    sequences, model_ms = (3, 1.0) if lease.dry else (SEQUENCES, MODEL_MS)
    pause = _pause(lease, model_ms)
    options = Namespace(
        sequences=sequences, model_ms=model_ms, overlap=True, lowering="programs",
        processor_time=False,
    )  # fmt: skip
    machine = Machine(options, make_device(lease.device.type, backend="triton"), pause)
    try:
        whole = statistics.median(machine.step_seconds(5 if lease.dry else 150))
        parts = machine.measure(5 if lease.dry else 50, every=None)
    finally:
        machine.close()
    model = seconds_each([pause] * 5, lease)
    return {
        "sequences": sequences, "step_ms": 1e3 * whole, "model_ms": 1e3 * model,
        "not_hidden_ms": 1e3 * (whole - model),
        "host_ms": {part: parts[part] for part in ("plan", "build", "sample")},
    }  # fmt: skip


def _pause(lease: Lease, model_ms: float) -> Callable[[], object]:
    if lease.device.type != "cuda":
        return lambda: time.sleep(model_ms / 1e3)
    cycles = int(model_ms * CYCLES_PER_MS)
    return lambda: torch.cuda._sleep(cycles)


def says(found: Found) -> str:
    """One line."""
    parts = ", ".join(f"{name} {ms:.2f}" for name, ms in found["host_ms"].items())
    return (
        f"{found['sequences']} tokens: a step takes {found['step_ms']:.2f} ms, its model "
        f"{found['model_ms']:.2f}; {found['not_hidden_ms']:.2f} ms are not hidden (of the host: "
        f"{parts} ms)"
    )
