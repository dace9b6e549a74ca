"""Build a running engine from its settings. The heavy imports come when that is asked for."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.errors import AdapterNotFoundError, SettingError
from gossamer.serving.core.tenants import LimitsOf, unlimited
from gossamer.serving.settings import ServeSettings

if TYPE_CHECKING:
    from gossamer.serving.engine.engine import Engine

__all__ = ["ServeSettings", "build_engine"]


def build_engine(settings: ServeSettings, limits_of: LimitsOf = unlimited) -> "Engine":
    """Load the base model and start an engine on it. `limits_of` tells what a tenant may use.

    Raises `BaseModelError`s for the model, `AdapterNotFoundError` for a missing adapter folder,
    `SettingError` for settings that cannot work here.
    """
    from gossamer.basemodel.find import resolve

    if settings.tensor_parallel > 1:
        raise SettingError(
            f"tensor_parallel={settings.tensor_parallel}: this engine is of one process; start it "
            "with `gossamer serve` or `gossamer.LLM`"
        )
    # What can be wrong with names is told before anything heavy is loaded.
    check_adapters(settings.adapters)
    folder = resolve(settings.model)
    from gossamer.serving.engine.assemble import assemble_engine

    engine = assemble_engine(settings, folder, limits_of)
    engine.start()
    return engine


def check_adapters(folders: Iterable[Path]) -> None:
    """Raise `AdapterNotFoundError` if one of `folders` does not exist."""
    for folder in folders:
        if not folder.is_dir():
            raise AdapterNotFoundError(
                f"the adapter folder {folder} does not exist; create it, or give another --adapters"
            )
