"""The state of the random generators, kept where a computation drew from them, to draw it again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

State = tuple[Tensor, ...]


def state_of(device: torch.device) -> State:
    """Return the state of the processor's generator, and of the device's if it has one."""
    states = [torch.get_rng_state()]
    if device.type not in ("cpu", "meta"):
        states.append(torch.get_device_module(device).get_rng_state(device))
    return tuple(states)


def drawing(compute: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, State | None]:
    """Compute, and return the state from before if random numbers were drawn; else None.

    So that nothing is kept (5 KB a time on a processor) where nothing is random.
    """
    before = state_of(device)
    result = compute()
    same = all(torch.equal(a, b) for a, b in zip(before, state_of(device), strict=True))
    return result, None if same else before


def replay(state: State | None, device: torch.device) -> Any:
    """A context in which the same numbers are drawn as after `state`, and none are used up."""
    return nullcontext() if state is None else _replay(state, device)


@contextmanager
def _replay(state: State, device: torch.device) -> Iterator[None]:
    now = state_of(device)
    _set(state, device)
    try:
        yield
    finally:
        _set(now, device)


def _set(state: State, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.get_device_module(device).set_rng_state(state[1], device)
