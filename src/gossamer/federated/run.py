"""Carries out a federated run in one process, from settings to run folder, without a network."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_tokenizer
from gossamer.errors import SettingError, one_line
from gossamer.federated.check import check_folder, check_method
from gossamer.federated.client import ClientReply
from gossamer.federated.coordinator import Coordinator
from gossamer.federated.outputs.record import CLIENTS, FederatedResult
from gossamer.federated.rows import HELD_OUT, SharedRows, share_rows
from gossamer.federated.schedule import Round, choose_clients
from gossamer.federated.server import Tell, silent
from gossamer.federated.settings import FederatedSettings
from gossamer.training.data import load_data
from gossamer.training.prepare import Prepared, prepare
from gossamer.training.quiet import quiet_libraries


def simulate(
    settings: FederatedSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    tell: Tell = silent,
) -> FederatedResult:
    """Carry out the run of `settings`: all clients and the server in this process.

    The result is in the folder `output`: the adapter, `run.yaml`, the figures of each round in
    `metrics.jsonl`, the rows of each client. With `resume` it goes on after the last round that
    was saved, to the same figures. `tell` gets lines for people. A client that fails is left out
    of its round, which says why. Raises a `GossamerError` with one clear line.
    """
    output = Path(settings.output)
    check_folder(settings, resume=resume, overwrite=overwrite)
    check_method(settings)
    if settings.privacy != "none":
        raise SettingError(
            f"privacy {settings.privacy} is Flower's; add --flower, or simulate_over_flower in "
            "Python"
        )
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="gossamer-rows-") as scratch:
        shared, files, prepared = prepare_clients(settings, Path(scratch), tell)
        with shared.told_by_name(Path(scratch)):
            rows = [_load(prepared, path) for path in files]
        run = Coordinator(settings, prepared, tell)
        try:
            counts = {name: len(own) for name, own in zip(shared.names, rows, strict=True)}
            run.begin(counts, resume=resume)
            shutil.copytree(scratch, output / CLIENTS, dirs_exist_ok=True)
            for plan in run.rounds_left():
                _take(run, plan, rows, shared.names, tell)
        finally:
            run.close()
        return run.finish()


def prepare_clients(
    settings: FederatedSettings, folder: Path, tell: Tell
) -> tuple[SharedRows, list[Path], Prepared]:
    """Share out the rows, write them into `folder` by client, and prepare the run of the first."""
    shared = share_rows(settings, load_tokenizer(resolve(settings.model)))
    for line in shared.report.lines_of_rows():
        tell(line)
    files = shared.write(folder)
    with shared.told_by_name(folder):
        prepared = prepare(_client_settings(settings, files[0], shared))
    # One client's report knows nothing of what was left out before it got its share.
    prepared.recorded["left_out"] = shared.report.left_out_rows() or None
    return shared, files, prepared


def _client_settings(
    settings: FederatedSettings, data: Path, shared: SharedRows
) -> FederatedSettings:
    """Return the settings to read the file of one client by, and the rows held out beside it."""
    changes: dict[str, Any] = {"data": str(data), "eval_split": 0, "max_rows": None}
    # The rows were sifted before they were shared out.
    changes["leave_out"] = []
    if shared.held_out:
        changes["eval_data"] = str(data.parent / HELD_OUT)
    return settings.model_copy(update=changes)


def _load(prepared: Prepared, path: Path) -> list[Any]:
    settings = prepared.settings.model_copy(update={"data": str(path), "eval_data": None})
    return list(load_data(settings, prepared.tokenizer, seed=settings.seed).train)


def _take(
    run: Coordinator, plan: Round, rows: list[list[Any]], names: list[str], tell: Tell
) -> None:
    """Take one round."""
    settings = run.settings
    run.begin_round(plan)
    chosen = choose_clients(len(rows), settings.clients_per_round, plan.number, settings.seed)
    replies: dict[int, ClientReply] = {}
    failed: dict[str, str] = {}
    down = 0
    for client in chosen:
        download = run.download(plan, client)
        down += download.bytes
        try:
            tensors = run.server.state.tensors
            reply = run.learner.train(download.order, tensors, rows[client])
            run.check_reply(plan, client, reply, names[client])
            replies[client] = reply
        except Exception as error:
            # What happens to one client is not to end the round of the others.
            failed[names[client]] = one_line(f"{type(error).__name__}: {error}")
            tell(f"round {plan.number}: client {names[client]} failed: {failed[names[client]]}")
    run.finish_round(
        plan, replies, failed=failed, names=dict(enumerate(names)), figures={"down": down}
    )
    run.judge_round(plan)
