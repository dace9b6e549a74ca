"""Refuses early what the density loss cannot go with, and says what it will count."""

from typing import Any

from gossamer.errors import SettingError
from gossamer.methods import Method
from gossamer.training.density.meter import DensityMeter
from gossamer.training.settings import RunSettings


def check_density(settings: RunSettings, method: Method[Any]) -> None:
    """Raise `SettingError` if the run computes its MLPs by code that shows no activations, or
    shows them where the term would have no gradient."""
    if settings.density_loss is None:
        return
    if settings.density_loss and method.no_density_loss_because is not None:
        raise SettingError(
            f"density_loss={settings.density_loss:g} cannot go with method '{method.name}': "
            f"{method.no_density_loss_because}; use density_loss=0, which only measures, or "
            "another method"
        )
    if settings.sparse_compute is not None:
        raise SettingError(
            "density_loss cannot go with sparse_compute, which computes some channels of the "
            "activations only; leave one of them out"
        )
    if settings.liger_kernel and settings.density_of == "gate":
        raise SettingError(
            "density_loss: Liger's kernel never writes the gate's output alone; use "
            "density_of=product, or leave liger_kernel out"
        )


def density_facts(settings: RunSettings, model: Any) -> dict[str, Any]:
    """What `run.yaml` records of the density: the size above which an activation is dense.

    Raises `UnsupportedModelError` if the activations of `model` are not known.
    """
    if settings.density_loss is None:
        return {}
    meter = DensityMeter(settings)
    meter.attach(model)
    try:
        return {"density_above": meter.threshold()}
    finally:
        meter.detach()
