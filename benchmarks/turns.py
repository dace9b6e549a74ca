"""Two jobs that take steps in turn, so that whatever else a machine does hits both alike.

A shared machine drifts by tens of percent within seconds; two steps directly behind each other see
nearly the same machine.
"""

import threading
import time
from collections.abc import Callable

AfterStep = Callable[[], None]
Job = Callable[[AfterStep], object]
"""Calls its argument at the end of each step, on the thread that makes the steps; the first call
says that what comes before the steps (the prompts) is done."""


def take_turns(first: Job, second: Job) -> list[tuple[float, float]]:
    """Seconds of each step of both, in pairs, as long as both make steps."""
    turns = _Turns()
    errors: list[BaseException] = []

    def run(job: Job, seat: int) -> None:
        try:
            job(lambda: turns.after_step(seat))
        except BaseException as error:
            errors.append(error)
        finally:
            turns.leave(seat)

    threads = [
        threading.Thread(target=run, args=(job, seat)) for seat, job in enumerate((first, second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return list(zip(*turns.seconds, strict=False))


class _Turns:
    def __init__(self) -> None:
        self.seconds: tuple[list[float], list[float]] = ([], [])
        self._changed = threading.Condition()
        self._is_ready = [False, False]
        self._has_left = [False, False]
        self._turn = 0
        self._began: list[float | None] = [None, None]

    def after_step(self, seat: int) -> None:
        """Hand the turn to the other and wait until it is back."""
        other, began = 1 - seat, self._began[seat]
        with self._changed:
            if began is not None and not self._has_left[other]:
                self.seconds[seat].append(time.perf_counter() - began)
            self._is_ready[seat] = True
            if began is not None:
                self._turn = other
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._has_left[other] or (self._is_ready[other] and self._turn == seat)
            )
        self._began[seat] = time.perf_counter()

    def leave(self, seat: int) -> None:
        with self._changed:
            self._has_left[seat] = True
            self._changed.notify_all()
