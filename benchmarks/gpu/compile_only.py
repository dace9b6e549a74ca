"""Host code on tensors without data: what it launches is written down, and compiled for a GPU that
need not be here.

    with compile_only(90) as launches:
        operation(torch.empty(64, 4096, device="meta"))

Tensors are on torch's device "meta", which any build has. It refuses what needs their data, as a
CUDA graph does: `.item()`, `bool(tensor)`, masks of booleans; and most mixtures with other devices.
A kernel that is given a tensor of another device is refused here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction, MockTensor

from machine_code import MachineCode, read

NOT_LAUNCHED = (
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh",
    "detach", "detach_", "_unsafe_view",
)  # fmt: skip
"""Operations of torch that start nothing on a device, beside views."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of a Triton kernel, or one operation of torch that would launch something."""

    name: str
    grid: tuple[int, ...] = ()
    """Of a Triton kernel, its numbers of programs; empty: an operation of torch."""
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    """Type and shape of each tensor, by the name of the argument or its place."""
    ints: Mapping[str, int]
    """Whole numbers that the launch is given; a CUDA graph freezes them."""
    constants: Mapping[str, Any]
    """The kernel's constexprs and options."""
    binary: Any = None

    @property
    def code(self) -> MachineCode:
        """What the kernel takes."""
        if id(self.binary) not in _CODES:
            code = MachineCode()
            read(self.binary, code)
            _CODES[id(self.binary)] = self.binary, code
        return _CODES[id(self.binary)][1]


_CODES: dict[int, tuple[Any, MachineCode]] = {}


class CompileOnly:
    """Stands in for the driver of a GPU: knows its target and launches nothing."""

    launcher_cls = utils = None

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        # A number of its own for each target: compiled kernels are kept by device.
        return int(self.target.arch)

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind


class _Aligned(MockTensor):  # type: ignore[misc]
    """Begins as far from an aligned address as its tensor from the start of its storage."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor.dtype, tuple(tensor.shape))
        self._place = tensor.storage_offset() * tensor.element_size()

    def data_ptr(self) -> int:
        return self._place


@contextmanager
def compile_only(capability: int = 90, *, torch_too: bool = False) -> Iterator[list[Launch]]:
    """Yield the list of launches, which grows while the body runs.

    capability: of the GPU, such as 90 for an H100. torch_too: also list what torch would launch.
    Raises `ValueError` when a kernel is given a tensor that is not on "meta".
    """
    launches: list[Launch] = []
    real = JITFunction.run

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        launch, mocked = _describe(kernel, args, grid, options)
        # As a launch specialises it: whole numbers and addresses that are multiples of 16.
        binary = real(
            kernel, *(mocked(v) for v in args), grid=launch.grid, warmup=True,
            **{name: mocked(v) for name, v in options.items()},
        )  # fmt: skip
        launches.append(Launch(**{**vars(launch), "binary": binary}))
        return binary

    before = driver._active
    driver.set_active(CompileOnly(capability))
    JITFunction.run = run
    try:
        if torch_too:
            with _Operations(launches):
                yield launches
        else:
            yield launches
    finally:
        JITFunction.run = real
        driver._active = before


def _describe(
    kernel: Any, args: Sequence[Any], grid: Any, options: Mapping[str, Any]
) -> tuple[Launch, Callable[[Any], Any]]:
    names = kernel.arg_names
    given = dict(zip(names, args, strict=False)) | dict(options)
    tensors = {name: v for name, v in given.items() if isinstance(v, Tensor)}
    for name, tensor in tensors.items():
        if tensor.device.type != "meta":
            raise ValueError(f"{kernel.__name__} gets '{name}' on {tensor.device}, not on meta")
    constexprs = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    ints = {
        name: v for name, v in given.items()
        if isinstance(v, int) and name in names and name not in constexprs
    }  # fmt: skip
    sizes = grid(given) if callable(grid) else grid
    launch = Launch(
        name=kernel.__name__,
        grid=tuple(map(int, sizes)),
        tensors={name: (str(t.dtype), tuple(t.shape)) for name, t in tensors.items()},
        ints=ints,
        constants={n: v for n, v in given.items() if n not in tensors and n not in ints},
    )
    return launch, lambda value: _Aligned(value) if isinstance(value, Tensor) else value


class _Operations(TorchDispatchMode):
    """Appends what torch itself would launch."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch imports its compiler, for seconds.
        return False

    def __init__(self, launches: list[Launch]) -> None:
        super().__init__()
        self._launches = launches

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {str(i): v for i, v in enumerate(args)} | dict(kwargs or {})
        tensors = {n: v for n, v in inputs.items() if isinstance(v, Tensor)}
        leaves = tree_leaves((args, kwargs))
        both = (*leaves, *tree_leaves(result))
        on_device = any(isinstance(v, Tensor) and v.device.type == "meta" for v in both)
        if on_device and starts_something(func, leaves, result):
            self._launches.append(
                Launch(
                    name=str(func.overloadpacket).removeprefix("aten."),
                    tensors={n: (str(t.dtype), tuple(t.shape)) for n, t in tensors.items()},
                    ints={n: v for n, v in inputs.items() if isinstance(v, int)},
                    constants={},
                )
            )
        return result


def starts_something(func: Any, leaves: Sequence[Any], result: Any) -> bool:
    """Whether an operation of torch computes, as views and fresh memory do not.

    leaves: of its arguments. What may be a view, as the result of `reshape`, is one if it has the
    memory of an argument.
    """
    if func.overloadpacket.__name__ in NOT_LAUNCHED:
        return False
    returns = [value.alias_info for value in func._schema.returns]
    if not any(alias is not None and not alias.is_write for alias in returns):
        return True
    given = {v.untyped_storage()._cdata for v in leaves if isinstance(v, Tensor)}
    made = [v for v in tree_leaves(result) if isinstance(v, Tensor)]
    return any(v.untyped_storage()._cdata not in given for v in made)


def as_json(launch: Launch, *, with_code: bool = True) -> dict[str, Any]:
    """Return the launch as plain values; those of no JSON type as text."""
    code = vars(launch.code) if with_code and launch.binary is not None else None
    return {
        "name": launch.name, "grid": launch.grid, "tensors": launch.tensors, "ints": launch.ints,
        "constants": {n: v if _is_plain(v) else str(v) for n, v in launch.constants.items()},
        "code": code, "binary": launch.binary and launch.binary.hash, "triton": triton.__version__,
    }  # fmt: skip


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str)
