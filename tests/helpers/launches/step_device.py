"""A device that records the steps of a whole model, or that has memory without data."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from gossamer.serving.core.tickets import DoneTicket, Ticket
from gossamer.serving.device.cpu import CpuDevice, CpuFetch
from gossamer.serving.packing.resident import DeviceTables, Resident
from launches.recording import Operation, differences, record
from model_steps import entry_of

TABLE_BYTES = 4096
"""Between the tables of two adapters: all lie where the pool holds zeros."""


class StepDevice(CpuDevice):
    """Records what a graph would hold, or, on "meta", has memory that holds nothing."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        super().__init__("triton", dtype)
        self.torch_device = torch.device(device)
        self.roots: list[Any] = []
        """What keeps the memory that stays from step to step."""
        self.recorded: dict[Hashable, list[list[Operation]]] = {}
        """What each replay of a key did."""

    def pool_memory(self, num_blocks: int, block_bytes: int) -> Tensor:
        """Zeros."""
        size = num_blocks * block_bytes
        return torch.zeros(size, dtype=torch.uint8, device=self.torch_device)

    def upload(self, target: Tensor, source: Tensor) -> Ticket:
        """Copied, where there is something to copy to."""
        if target.device.type != "meta":
            target.copy_(source)
        return DoneTicket(target)

    def fetch(self, tensor: Tensor) -> CpuFetch:
        """Zeros, where there is nothing to bring."""
        return CpuFetch(torch.zeros(tensor.shape, dtype=tensor.dtype))

    def graph(self, key: Hashable, body: Callable[[], None]) -> Callable[[], None]:
        """Run `body` once, as a capture is warmed up, and record it each time it is called."""
        if self.torch_device.type == "meta":
            return body
        runs = self.recorded.setdefault(key, [])
        # What kernels leave for one another grows here, before it is said what stays.
        record(body, {"kept": tensors_below(self.roots)})

        def replay() -> None:
            runs.append(record(body, {"kept": tensors_below(self.roots)}))

        return replay

    def differences(self) -> list[str]:
        """Return where replays of one key are not the same."""
        return [
            line
            for runs in self.recorded.values()
            for run in runs[1:]
            for line in differences(runs[0], run)
        ]


def tensors_below(roots: Sequence[Any]) -> list[Tensor]:
    """Return all tensors that `roots` hold, by way of attributes, containers and closures."""
    found: dict[int, Tensor] = {}
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            found[id(value)] = value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        elif callable(value) and getattr(value, "__closure__", None):
            waiting += [cell.cell_contents for cell in value.__closure__]
        elif type(value).__module__.startswith(("gossamer.", "torch.nn", "transformers.")):
            waiting += _attributes(value)
    return list(found.values())


def _attributes(value: Any) -> list[Any]:
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return list(getattr(value, "__dict__", {}).values())


def adapter(number: int, *, lora: bool = True, sparse: bool = False, scales: bool = False) -> Any:
    """An adapter in the pool whose tables hold zeros: it acts on nothing, by the same launches."""
    tables = DeviceTables(
        lora=number * TABLE_BYTES if lora or scales else -1,
        sparse=number * TABLE_BYTES if sparse else -1,
        cost=16.0,
        scaled_inputs=frozenset({3}) if scales else frozenset(),
    )
    return entry_of(Resident(tables=tables), f"adapter {number}")
