"""A federated run over Flower's messages, all in this process and without a network."""

import shutil
import tempfile
from pathlib import Path

from gossamer.federated.check import check_method
from gossamer.federated.flower.client_app import make_client_app
from gossamer.federated.flower.local_grid import LocalGrid
from gossamer.federated.flower.server_app import serve
from gossamer.federated.outputs.record import CLIENTS, FederatedResult
from gossamer.federated.rows import share_rows
from gossamer.federated.run import client_settings
from gossamer.federated.server import Tell, silent
from gossamer.federated.settings import FederatedSettings
from gossamer.training.outputs.run_folder import check_free
from gossamer.training.prepare import prepare
from gossamer.training.quiet import quiet_libraries


def simulate_over_flower(
    settings: FederatedSettings, *, overwrite: bool = False, tell: Tell = silent
) -> FederatedResult:
    """Carry out the run of `settings` as `gossamer.federated.run.simulate` does, to the same
    numbers, over Flower's messages; with the privacy that `settings` ask for. It cannot be resumed.
    """
    output = Path(settings.output)
    check_free(output, overwrite=overwrite)
    check_method(settings)
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="gossamer-rows-") as scratch:
        shared = share_rows(settings)
        files = shared.write(Path(scratch))
        prepared = prepare(client_settings(settings, files[0], shared))
        settings = settings.model_copy(update={"clients": len(files)})
        nodes = [{"data": str(file), "partition-id": n} for n, file in enumerate(files)]
        grid = LocalGrid(make_client_app(settings), nodes)
        rows = {name: len(own) for name, own in zip(shared.names, shared.clients, strict=True)}
        result = serve(settings, prepared, grid, tell, client_rows=rows)
        shutil.copytree(scratch, output / CLIENTS, dirs_exist_ok=True)
        return result
