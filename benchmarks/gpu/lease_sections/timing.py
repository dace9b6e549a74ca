"""How long launches take on a GPU: in a CUDA graph, over inputs that no cache still holds."""

import math
import time
from collections.abc import Callable, Sequence

import torch

from lease_sections.frame import Lease

CACHE_BYTES = 200_000_000
"""What a round of inputs should fill: four times the second-level cache of an H100 or H200."""


def copies_for(num_bytes: int, lease: Lease, most: int = 16) -> int:
    """Return how many sets of inputs of `num_bytes` make a round."""
    return (
        1
        if lease.device.type != "cuda"
        else max(2, min(most, math.ceil(CACHE_BYTES / max(num_bytes, 1))))
    )


def seconds_each(bodies: Sequence[Callable[[], object]], lease: Lease, rounds: int = 7) -> float:
    """Return the seconds of one of `bodies`, the median of `rounds` replays of all of them.

    They are run once first, which compiles what they launch, and then captured into one graph. On a
    CPU they are run once, and the figure means nothing.
    """
    if lease.device.type != "cuda":
        started = time.perf_counter()
        for body in bodies:
            body()
        return (time.perf_counter() - started) / len(bodies)
    stream = torch.cuda.Stream()
    # What the bodies read was made on the other stream.
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for body in bodies:
            body()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for body in bodies:
            body()
    found = []
    for _ in range(rounds + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    # The first two warm the clocks up.
    return sorted(found[2:])[rounds // 2] / len(bodies)
