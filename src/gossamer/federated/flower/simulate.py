"""A federated run over Flower's messages on this machine: in this process and without a network, or
on Flower's simulation engine."""

import shutil
import tempfile
from pathlib import Path

import torch
from flwr.serverapp import Grid

from gossamer.federated.check import check_folder, check_method
from gossamer.federated.flower.client_app import make_client_app
from gossamer.federated.flower.local_grid import LocalGrid
from gossamer.federated.flower.server_app import serve
from gossamer.federated.outputs.record import CLIENTS, FederatedResult
from gossamer.federated.run import prepare_clients
from gossamer.federated.server import Tell, silent
from gossamer.federated.settings import FederatedSettings
from gossamer.training.quiet import quiet_libraries


def simulate_over_flower(
    settings: FederatedSettings,
    *,
    at_once: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tell: Tell = silent,
) -> FederatedResult:
    """Carry out the run of `settings` as `gossamer.federated.run.simulate` does, to the same
    numbers, over Flower's messages; with the privacy that `settings` ask for.

    Clients are in this process. With `at_once` they are processes on Flower's simulation engine,
    which needs Ray: this many learn at a time, and each loads the model. With `resume` the run goes
    on after the last round that was saved, to the same figures unless noise is drawn; it may have
    been begun in another of these ways. Raises a `GossamerError` with one clear line.
    """
    output = Path(settings.output)
    check_folder(settings, resume=resume, overwrite=overwrite)
    check_method(settings)
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="gossamer-rows-") as scratch:
        shared, files, prepared = prepare_clients(settings, Path(scratch), tell)
        app = make_client_app(settings, list(map(str, files)))
        rows = {name: len(own) for name, own in zip(shared.names, shared.clients, strict=True)}

        def lead(grid: Grid) -> FederatedResult:
            return serve(settings, prepared, grid, tell, client_rows=rows, resume=resume)

        if at_once is None:
            result = lead(LocalGrid(app, [{"partition-id": n} for n in range(len(files))]))
        else:
            from gossamer.federated.flower.engine import run_on_engine

            gpus = 0 if settings.device == "cpu" else torch.cuda.device_count()
            at_once = min(at_once, len(files))
            result = run_on_engine(app, lead, clients=len(files), at_once=at_once, gpus=gpus)
        shutil.copytree(scratch, output / CLIENTS, dirs_exist_ok=True)
        return result
