"""Fine-tuning jobs and the page beside a server: options, and the parts that they become."""

import argparse
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.cli.parts.options import Options
from gossamer.errors import RequestError, SettingError
from gossamer.extras import require
from gossamer.jobs.settings import JobsSettings
from gossamer.serving.core.interface import EngineInterface
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.settings import ServeSettings

if TYPE_CHECKING:
    from gossamer.jobs.queue.order import TenantPolicy
    from gossamer.jobs.store import JobStore
    from gossamer.serving.http.extension import Extension
    from gossamer.serving.key_file import KeyFile

JOBS = Options(
    JobsSettings,
    title="jobs",
    metavars={"data_dir": "DIR", "database": "URL", "memory_margin": "X"},
)


def add_arguments(parser: argparse.ArgumentParser, *, switches: bool = True) -> None:
    """Declare the options of jobs, and with `switches` those that ask for them."""
    if switches:
        parser.add_argument(
            "--jobs", action="store_true", help="take files and fine-tuning jobs, and run them"
        )
        parser.add_argument(
            "--studio", action="store_true", help="the page in the browser, below /studio"
        )
    JOBS.add_to(parser)


@dataclass(frozen=True, slots=True)
class ServedJobs:
    """Jobs of one data folder beside one server."""

    settings: JobsSettings
    store: "JobStore"
    token: str | None
    """What opens a session of the page, once; None: no page."""

    def extensions(
        self, engine: EngineInterface, model: str, keys: "KeyFile | None"
    ) -> "list[Extension]":
        """Make what the server is extended by; `model` is how the base model was named."""
        from gossamer.basemodel.find import resolve
        from gossamer.jobs.supervise.estimate import Estimator
        from gossamer.jobs.supervise.supervisor import Supervisor
        from gossamer.studio.assembly import StudioParts
        from gossamer.studio.new_job import BaseModel

        def is_busy() -> bool:
            stats = engine.stats()
            return bool(stats.num_running or stats.num_waiting)

        folder = resolve(model)
        # One for both: what is shown beforehand is what a job is judged by.
        estimator = Estimator(self.store, self.settings)
        parts = StudioParts(
            self.settings,
            BaseModel(engine.model_name, str(folder), lambda: _hidden_size(folder)),
            store=self.store,
            runner=Supervisor(
                self.store,
                self.settings,
                policies=lambda: _policies(keys),
                is_busy=is_busy,
                estimator=estimator,
            ),
            estimator=estimator,
            token=self.token,
        )
        return [parts.api(), *(parts.page() if self.token is not None else ())]


def with_their_adapters(args: argparse.Namespace, settings: ServeSettings) -> ServeSettings:
    """Have the engine find what jobs make, if there are any, beside its other adapters."""
    if not (args.jobs or args.studio):
        return settings
    served = JOBS.read(args).folder.served
    return settings.model_copy(update={"adapters": (*settings.adapters, served)})


@contextmanager
def open_jobs(args: argparse.Namespace, http: HttpSettings) -> Iterator[ServedJobs | None]:
    """Open the data folder, if jobs or the page are asked for.

    Raises `MissingExtraError`, `SettingError` for a server that is open to all, `StorageError`.
    """
    if not (args.jobs or args.studio):
        given = JOBS.given(args)
        if given:
            raise SettingError(f"{JOBS.option(next(iter(given)))} is for a server with --jobs")
        yield None
        return
    require("--studio" if args.studio else "--jobs", "studio")
    require("--studio" if args.studio else "--jobs", "tune")
    if http.is_public and not http.needs_key:
        raise SettingError(
            f"--host {http.host} would let anyone who reaches it train on this machine; ask for "
            "keys with --keys FILE (made by `gossamer keys add`) or --api-key"
        )
    from gossamer.jobs.store import JobStore

    settings = JOBS.read(args)
    store = JobStore.open(settings)
    try:
        yield ServedJobs(settings, store, secrets.token_urlsafe(24) if args.studio else None)
    finally:
        store.close()


def _policies(keys: "KeyFile | None") -> "Mapping[str, TenantPolicy]":
    """What each tenant of the key file may train."""
    from gossamer.jobs.queue.order import TenantPolicy

    tenants = {} if keys is None else keys.tenants()
    return {
        name: TenantPolicy(
            share=tenant.share,
            max_jobs=tenant.max_jobs,
            seconds_per_day=None
            if tenant.train_minutes_per_day is None
            else 60.0 * tenant.train_minutes_per_day,
        )
        for name, tenant in tenants.items()
    }


def _hidden_size(folder: Path) -> int:
    """The width of a model, by which default learning rates go."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = config.get("text_config", config).get("hidden_size")
    if not isinstance(size, int):
        raise RequestError(
            "the base model's config names no hidden_size, so there is no default rate to "
            "multiply; give training.learning_rate",
            param="hyperparameters",
        )
    return size
