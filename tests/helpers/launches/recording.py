"""Records a step as a CUDA graph would hold it, on a CPU.

A graph keeps operations, the addresses of what they read and write, and every number they were
given; at a replay nothing of the host's code runs. So two runs of the same bucket must be the same
list, whatever the step is about; what was not made inside must be memory that stays; and nothing
may ask a device for a value on the way. Kernels of Triton are one operation each.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from triton.runtime.interpreter import InterpretedFunction

ASKS = {
    torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.numpy, torch.Tensor.cpu,
    torch.Tensor.__array__, torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__,
    torch.Tensor.__index__, torch.equal, torch.Tensor.equal,
}  # fmt: skip
"""Functions that bring values to the host, some of them without an operation of torch's."""

SIZED_BY_VALUES = {
    "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    "repeat_interleave", "_local_scalar_dense", "is_nonzero", "equal", "allclose",
}  # fmt: skip
"""Operations whose result's size, or the result itself, the host must know."""


class NotRecordable(Exception):
    """What a graph cannot hold."""


@dataclass(frozen=True)
class Use:
    """A tensor as an operation was given it."""

    storage: str
    """The name of memory that stays, or "made n" for the n-th that the step has made."""
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Operation:
    """One operation with all that a graph would freeze."""

    name: str
    inputs: tuple[Any, ...]
    """In order: tensors as `Use`, other values as they are."""
    outputs: tuple[Any, ...]


class Recording:
    """A list of operations, filled inside `with`; the memory that stays is given by name.

    Raises `NotRecordable` at the operation that breaks a rule, naming it and the argument.
    """

    def __init__(
        self, stays: Mapping[str, Tensor | Sequence[Tensor]], *, interpret: bool = False
    ) -> None:
        """interpret: also compute what kernels of Triton compute; no rule asks for it."""
        self._interpret = interpret
        self.operations: list[Operation] = []
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []
        for name, tensors in stays.items():
            of = [tensors] if isinstance(tensors, Tensor) else list(tensors)
            for i, tensor in enumerate(of):
                self._names.setdefault(_storage(tensor), name if len(of) == 1 else f"{name} {i}")
            self._kept += of
        self._num_made = 0
        self._is_launching = False
        self._stack = ExitStack()

    def __enter__(self) -> "Recording":
        real = InterpretedFunction.run

        def launch(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
            given = dict(zip(kernel.arg_names, args, strict=False)) | options
            self._note(f"{kernel.__name__}[{tuple(grid)}]", given.items(), ())
            if not self._interpret:
                return None
            self._is_launching = True
            try:
                return real(kernel, *args, grid=grid, warmup=warmup, **options)
            finally:
                self._is_launching = False

        InterpretedFunction.run = launch
        self._stack.callback(setattr, InterpretedFunction, "run", real)
        self._stack.enter_context(_Asks(self))
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def _note(self, name: str, inputs: Any, outputs: Sequence[Any]) -> None:
        known = tuple((place, self._use(name, place, value)) for place, value in inputs)
        given = {value.storage for _, value in known if isinstance(value, Use)}
        for value in outputs:
            if isinstance(value, Tensor) and self._names.get(_storage(value)) not in given:
                # Memory of its own. Kept until the end, so that no address comes twice.
                self._names[_storage(value)] = f"made {self._num_made}"
                self._num_made += 1
                self._kept.append(value)
        results = tuple(self._use(name, "result", value) for value in outputs)
        self.operations.append(Operation(name, known, results))

    def _use(self, operation: str, place: Any, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if _storage(value) not in self._names:
            raise NotRecordable(
                f"{operation} gets as '{place}' a tensor {list(value.shape)} of {value.dtype} that "
                "was neither made in the step nor is memory that stays"
            )
        return Use(
            self._names[_storage(value)], value.storage_offset(), tuple(value.shape),
            value.stride(), value.dtype,
        )  # fmt: skip


class _Operations(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch imports its compiler, for seconds.
        return False

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        recording = self._recording
        if recording._is_launching:
            return func(*args, **(kwargs or {}))
        name = str(func)
        if func.overloadpacket.__name__ in SIZED_BY_VALUES or _indexes_by_mask(func, args):
            raise NotRecordable(f"{name} makes the host wait for values")
        inputs, _ = tree_flatten((args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        recording._note(name, enumerate(inputs), tree_flatten(result)[0])
        return result


class _Asks(TorchFunctionMode):
    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in ASKS and not self._recording._is_launching:
            raise NotRecordable(f"{func.__name__} brings values to the host")
        return func(*args, **(kwargs or {}))


def _indexes_by_mask(func: Any, args: Sequence[Any]) -> bool:
    if func.overloadpacket.__name__ not in ("index", "index_put", "index_put_"):
        return False
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def record(
    body: Callable[[], object], stays: Mapping[str, Any], *, interpret: bool = False
) -> list[Operation]:
    """Return what `body` does; see `Recording`."""
    with Recording(stays, interpret=interpret) as recording:
        body()
    return recording.operations


def differences(first: Sequence[Operation], second: Sequence[Operation]) -> list[str]:
    """Return where the second run is not the first: what a replay would do wrongly."""
    found = []
    for i, (before, after) in enumerate(zip(first, second, strict=False)):
        if before.name != after.name:
            # What follows is shifted and says nothing.
            return [*found, f"operation {i}: {before.name}, then {after.name}"]
        pairs = zip(before.inputs + before.outputs, after.inputs + after.outputs, strict=False)
        found += [f"operation {i}, {before.name}: {a}, then {b}" for a, b in pairs if a != b]
    if len(first) != len(second):
        found.append(f"{len(first)} operations, then {len(second)}")
    return found
