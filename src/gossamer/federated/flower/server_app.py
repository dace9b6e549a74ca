"""The server of a federated run as one of Flower's apps."""

import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from gossamer.federated.check import check_folder
from gossamer.federated.coordinator import Coordinator
from gossamer.federated.flower.nodes import find_clients
from gossamer.federated.flower.privacy import private_strategy
from gossamer.federated.flower.strategy import RoundsStrategy
from gossamer.federated.outputs.record import FederatedResult
from gossamer.federated.rows import DEFAULT_CLIENTS
from gossamer.federated.server import Tell
from gossamer.federated.settings import FederatedSettings
from gossamer.training.prepare import Prepared, prepare
from gossamer.training.quiet import quiet_libraries

RESUME = "resume"
"""The name in an app's configuration by which a run that was stopped goes on."""


def make_server_app(settings: FederatedSettings) -> ServerApp:
    """Make the app of the server, which has the held-out rows and the folder of the run."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        resume = bool(context.run_config.get(RESUME, False))
        check_folder(settings, resume=resume, overwrite=False)
        with quiet_libraries():
            prepared = prepare(settings)
            result = serve(settings, prepared, grid, _print, resume=resume)
        print(f"rounds {result.rounds}, in {result.output}", flush=True)

    return app


def serve(
    settings: FederatedSettings,
    prepared: Prepared,
    grid: Grid,
    tell: Tell,
    *,
    client_rows: dict[str, int] | None = None,
    resume: bool = False,
) -> FederatedResult:
    """Carry out a run whose clients are reached through `grid`, or what is left of it.

    `client_rows`: how many rows each client has, by its name, where that is known. With `resume`
    clients are sent again what they had, since their nodes are new ones; in the figures they are
    not, so that these are those of a run that was never stopped.
    """
    logger = logging.getLogger("flwr")
    logger.setLevel(max(logger.level, logging.WARNING))
    nodes = find_clients(grid, len(client_rows or ()) or settings.clients or DEFAULT_CLIENTS)
    names = dict(enumerate(client_rows)) if client_rows else {n: str(n) for n in nodes}
    run = Coordinator(settings, prepared, tell)
    try:
        run.begin(client_rows or {}, resume=resume)
        left = len(run.rounds_left())
        strategy = RoundsStrategy(run, nodes, names, tell)
        in_round = min(settings.clients_per_round or len(nodes), len(nodes))
        if left:
            private_strategy(strategy, settings, clients=in_round).start(
                grid,
                strategy.first_arrays(),
                num_rounds=left,
                timeout=settings.round_seconds,
                evaluate_fn=strategy.judge,
            )
    finally:
        run.close()
    return run.finish()


def _print(line: str) -> None:
    print(line, flush=True)
