"""Which bytes of which arrays the kernels of a step touch, counted in Triton's interpreter.

    with counting({"rows": [pool]}) as traffic:
        operation()
    traffic["rows"].sectors * 32

A GPU moves memory in sectors of 32 bytes. Each is counted once, however many programs touch it:
what must come from memory if caches lose nothing. What is in none of the arrays, as memory that a
launch makes for itself, is counted as "other". Needs `TRITON_INTERPRET=1`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from triton.runtime.interpreter import interpreter_builder

SECTOR = 32


class Traffic:
    """What was touched of the arrays of one kind."""

    def __init__(self, arrays: Sequence[Tensor] = ()) -> None:
        """arrays: contiguous ones; they are kept alive, so that no other takes their place."""
        self.arrays = arrays
        self._seen: dict[str, set[int]] = {"read": set(), "written": set()}
        self.asked = {"read": 0, "written": 0, "added": 0}
        """Bytes that programs name, each time that they do; added: by atomic operations."""

    def touch(
        self, how: str, addresses: npt.NDArray[np.uint64], size: int
    ) -> npt.NDArray[np.uint64]:
        """Note accesses of `size` bytes to the arrays; returns the addresses that are elsewhere."""
        for array in self.arrays:
            low = array.data_ptr()
            is_inside = (addresses >= low) & (addresses < low + array.nbytes)
            if is_inside.any():
                self.note(how, addresses[is_inside], size)
                addresses = addresses[~is_inside]
        return addresses

    def note(self, how: str, addresses: npt.NDArray[np.uint64], size: int) -> None:
        """Note accesses of `size` bytes each."""
        self.asked[how] += len(addresses) * size
        sectors = np.unique(addresses // np.uint64(SECTOR)).tolist()
        for sort in ("read", "written") if how == "added" else (how,):
            self._seen[sort].update(sectors)

    def sectors(self, how: str) -> int:
        """Distinct sectors that were "read" or "written"; atomic additions are both."""
        return len(self._seen[how])


@contextmanager
def counting(arrays: Mapping[str, Sequence[Tensor]]) -> Iterator[dict[str, Traffic]]:
    """Count, by kind of array, what kernels touch until the end of the block."""
    found = {kind: Traffic(of) for kind, of in arrays.items()}
    other = Traffic()
    builder = interpreter_builder
    load, store, add = (
        builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw,
    )  # fmt: skip

    def note(how: str, pointers: Any, mask: Any) -> None:
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        data, chosen = np.broadcast_arrays(pointers.data, mask.data)
        addresses = data[chosen.astype(bool)].reshape(-1)
        for traffic in found.values():
            addresses = traffic.touch(how, addresses, size)
        if len(addresses):
            other.note(how, addresses, size)

    def counted_load(pointers: Any, mask: Any, *rest: Any) -> Any:
        note("read", pointers, mask)
        return load(pointers, mask, *rest)

    def counted_store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note("written", pointers, mask)
        return store(pointers, value, mask, *rest)

    def counted_add(operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note("added", pointers, mask)
        return add(operation, pointers, value, mask, *rest)

    builder.create_masked_load = counted_load
    builder.create_masked_store = counted_store
    builder.create_atomic_rmw = counted_add
    try:
        yield {**found, "other": other}
    finally:
        del builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw
