"""Calls what belongs to others, whose faults must not reach the thread that serves all."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any

log = logging.getLogger(__name__)


def settle(
    future: "Future[Any]", result: Any = None, *, error: BaseException | None = None
) -> None:
    """End `future` with `error` or `result`, unless it has ended already. Never raises."""
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
    except InvalidStateError:
        return
    except BaseException:
        # Of a callback: `Future` itself passes on what is no `Exception`.
        log.exception("the receiver of a result has failed")


def call_elsewhere(post: Callable[[Callable[[], None]], None], call: Callable[[], None]) -> None:
    """Have `call` called on the thread that `post` leads to; waits, and raises what it raised."""
    done: Future[None] = Future()

    def message() -> None:
        try:
            call()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    post(message)
    done.result()


def guard(call: Callable[[], None]) -> None:
    """Call `call`; what it raises is logged."""
    try:
        call()
    except Exception:
        log.exception("a call on the engine's thread has failed")
