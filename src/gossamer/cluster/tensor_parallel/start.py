"""Starts an engine whose model several processes compute, or joins one as another rank."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.children import LOOPBACK, STORE, ready_file, variables
from gossamer.errors import SettingError
from gossamer.serving.core.tenants import LimitsOf, unlimited
from gossamer.serving.engine.build import build_engine, check_adapters
from gossamer.serving.settings import ServeSettings

if TYPE_CHECKING:
    from gossamer.children import Children
    from gossamer.cluster.tensor_parallel.leader import Leader
    from gossamer.serving.engine.engine import Engine

_POLL_SECONDS = 0.02
_HANG_SECONDS = 30.0
"""Beyond max_read_seconds, which a reading notices itself unless the disk hangs."""


def start_engine(
    settings: ServeSettings,
    limits_of: LimitsOf = unlimited,
    on_lost: Callable[[], None] = lambda: None,
) -> "Engine":
    """Start an engine, and the processes of the other ranks if there are several.

    Under torchrun (`RANK` is set) the processes are there already: those of the other ranks stay
    here until rank 0 ends, and then leave by `SystemExit`. `on_lost` is called, on any thread, when
    a rank is lost. Raises as `build_engine`, and `SettingError` for a number of ranks that the
    model cannot be divided among.
    """
    if settings.tensor_parallel == 1:
        return build_engine(settings, limits_of)
    follow_if_told(settings)
    from gossamer.basemodel.find import resolve
    from gossamer.basemodel.load import load_config
    from gossamer.basemodel.sharded import check_size

    if settings.overlap_steps:
        raise SettingError(
            f"setting 'overlap_steps': the ranks of tensor_parallel={settings.tensor_parallel} are "
            "told the tokens of a step, which must have been read; leave one of the two out"
        )
    if settings.adapter_sharding == "full" and settings.merge_hot:
        raise SettingError(
            "setting 'merge_hot' needs the factors of an adapter whole, and 'adapter_sharding' "
            "full divides them; leave one of the two out"
        )
    check_adapters(settings.adapters)
    folder = resolve(settings.model)
    check_size(load_config(folder), settings.tensor_parallel)
    if "RANK" in os.environ:
        return _lead(settings, folder, limits_of, on_lost, {})
    return _start(settings, folder, limits_of, on_lost)


def follow_if_told(settings: ServeSettings) -> None:
    """Be a rank other than 0, if torchrun has started this process as one.

    It then ends with rank 0, by `SystemExit`. Raises `SettingError` if torchrun has started another
    number of processes than the settings say.
    """
    if settings.tensor_parallel == 1 or "RANK" not in os.environ:
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != settings.tensor_parallel:
        raise SettingError(
            f"tensor_parallel={settings.tensor_parallel}, but torchrun has started {size} "
            "processes; give both the same number"
        )
    if int(os.environ["RANK"]) == 0:
        return
    from gossamer.children import ignore_signals
    from gossamer.cluster.tensor_parallel.follower import follow

    ignore_signals()
    follow(*_limits(settings))
    raise SystemExit(0)


def _limits(settings: ServeSettings) -> tuple[float, float]:
    """Seconds after which a rank counts as lost, in general and while it reads an adapter."""
    reading = settings.adapter_limits.max_read_seconds + _HANG_SECONDS
    return settings.rank_timeout, settings.rank_timeout + reading


def _start(
    settings: ServeSettings, folder: Path, limits_of: LimitsOf, on_lost: Callable[[], None]
) -> "Engine":
    """Start the other ranks on this machine; they meet in a folder that is private to this user."""
    from gossamer.cluster.tensor_parallel.group import require_no_group

    require_no_group()
    size = settings.tensor_parallel
    with tempfile.TemporaryDirectory(prefix="gossamer-ranks-") as private:
        environment = {
            **LOOPBACK,
            STORE: str(Path(private) / "store"),
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(size),
        }
        with variables(environment):
            commands = {rank: _command(settings) for rank in range(1, size)}
            return _lead(settings, folder, limits_of, on_lost, commands)


def follower_command() -> list[str]:
    """Return the command that starts a rank other than 0."""
    return [sys.executable, "-m", "gossamer.cluster.tensor_parallel.follower"]


def _command(settings: ServeSettings) -> list[str]:
    return [*follower_command(), *map(str, _limits(settings))]


def _lead(
    settings: ServeSettings,
    folder: Path,
    limits_of: LimitsOf,
    on_lost: Callable[[], None],
    commands: dict[int, list[str]],
) -> "Engine":
    """Be rank 0; `commands` start the others."""
    from gossamer.basemodel.files import fingerprint
    from gossamer.cluster.tensor_parallel.group import join
    from gossamer.cluster.tensor_parallel.leader import Leader
    from gossamer.cluster.tensor_parallel.messages import StartModel
    from gossamer.serving.engine.assemble import assemble_engine

    leader = Leader(settings.rank_timeout, on_lost)
    children = _children(commands, leader)
    try:
        _wait_for(commands, leader)
        leader.join(join(*_limits(settings)), children)
        own = settings.model_dump(mode="json")
        leader.announce(StartModel(str(folder.absolute()), fingerprint(folder), own))
        engine = assemble_engine(settings, folder, limits_of, leader)
        leader.start_pings()
    except BaseException:
        leader.close()
        if children is not None:
            children.kill()
        raise
    engine.start()
    return engine


def _wait_for(ranks: Iterable[int], leader: "Leader") -> None:
    """Wait until the started processes are about to join; the group itself would wait for one that
    fails before until its time limit. Raises `RankLostError`."""
    files = [ready_file(os.environ[STORE], rank) for rank in ranks]
    while not all(file.exists() for file in files):
        leader.check()
        time.sleep(_POLL_SECONDS)


def _children(commands: dict[int, list[str]], leader: "Leader") -> "Children | None":
    from gossamer.children import Children

    return Children(commands, leader.child_ended) if commands else None
