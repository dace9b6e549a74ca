"""Flower's simulation engine: clients of this machine, several at a time, in processes of Ray."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from gossamer.errors import TrainingError, one_line
from gossamer.federated.outputs.record import FederatedResult
from gossamer.ray_token import require_ray_token

Lead = Callable[[Grid], FederatedResult]
"""Carries out a run whose clients are reached through a grid."""
_ENVIRONMENT = {
    # Ray would report to its makers that and how it is used.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's workers would step back behind every other program of the machine.
    "RAY_worker_niceness": "0",
    # It would hide GPUs from processes that asked for none, and says at length that it will not.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_POLL_SECONDS = 0.1
_END_SECONDS = 60.0
"""So long the server's thread may take to end after a stop."""


def run_on_engine(
    app: ClientApp, lead: Lead, *, clients: int, at_once: int, gpus: int
) -> FederatedResult:
    """Carry out a run on Flower's simulation engine.

    `clients` nodes have the numbers from 0. `at_once` of them learn at a time, each in a process
    of its own, to which this machine's processors and `gpus` are dealt evenly. Raises what `lead`
    raises, `TrainingError` if the engine fails, and `SettingError` if Ray was loaded so that it
    could obey calls without a token.
    """
    require_ray_token()
    os.environ.update(_ENVIRONMENT)
    # Not before: it may load Ray.
    from flwr.simulation import run_simulation

    server = ServerApp()
    run = _ServerThread(lead)
    server.main()(run)
    # What fails is told by the run, in one line; and what Flower says of its versions is for us.
    # For good, since threads of Flower's still end, and say so, when this function has.
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    try:
        run_simulation(server, app, clients, backend_config=_resources(at_once, gpus))
    except Exception as error:
        if run.error is None:
            raise TrainingError(f"Flower's simulation has failed: {_first(error)}") from error
    finally:
        run.stop()
    if run.error is not None:
        raise run.error
    if run.result is None:
        raise TrainingError("Flower's simulation has ended before the run")
    return run.result


def _resources(at_once: int, gpus: int) -> Any:
    """What Ray is told of this machine, and what of it each process gets."""
    cores = max(1, (os.cpu_count() or 1) // at_once)
    # Ray gives a process a part of one GPU, never parts of two.
    share = 1 / math.ceil(at_once / gpus) if gpus else 0.0
    return {
        "init_args": {
            "num_cpus": cores * at_once,
            "num_gpus": gpus,
            "include_dashboard": False,
            "logging_level": "ERROR",
            "log_to_driver": False,
            # Not the cluster that RAY_ADDRESS may name.
            "address": "local",
        },
        "client_resources": {"num_cpus": cores, "num_gpus": share},
    }


class _ServerThread:
    """The server of a run as Flower calls it, in a thread of its own."""

    def __init__(self, lead: Lead) -> None:
        self.result: FederatedResult | None = None
        self.error: BaseException | None = None
        self._lead = lead
        self._stop = threading.Event()
        self._is_over = threading.Event()
        self._is_over.set()

    def __call__(self, grid: Grid, context: Context) -> None:
        self._is_over.clear()
        try:
            self.result = self._lead(_StoppableGrid(grid, self._stop))
        except BaseException as error:
            # Flower would hand over exceptions but not an interruption.
            self.error = error
        finally:
            self._is_over.set()

    def stop(self) -> None:
        """Let the server wait for no reply any more, and wait for its end."""
        self._stop.set()
        self._is_over.wait(_END_SECONDS)


class _StoppableGrid(Grid):
    """A grid whose waiting ends when the run is stopped: Flower's would wait for hours for replies
    of processes that are gone."""

    def __init__(self, grid: Grid, stop: threading.Event) -> None:
        self._grid = grid
        self._stop = stop

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        if self._stop.is_set():
            raise KeyboardInterrupt
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        waiting = set(self.push_messages(messages))
        until = math.inf if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and time.monotonic() < until:
            for reply in self.pull_messages(waiting):
                replies.append(reply)
                waiting.discard(reply.metadata.reply_to_message_id)
            if waiting and self._stop.wait(_POLL_SECONDS):
                raise KeyboardInterrupt
        return replies


def _first(error: BaseException) -> str:
    """What began a chain of errors, as one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(f"{type(error).__name__}: {error}")
