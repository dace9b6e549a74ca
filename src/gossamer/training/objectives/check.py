"""Refuses what an objective cannot go with."""

from importlib.metadata import version

from gossamer.errors import DataError, SettingError
from gossamer.training.data import EncodedData
from gossamer.training.settings import RunSettings

OLDEST_TRL = (1, 16)
"""The first whose trainer for preferences scores answers without the logits of all tokens."""


def check_objective(settings: RunSettings) -> None:
    """Raise `SettingError` if a setting of the run cannot go with learning from pairs."""
    if settings.objective == "sft":
        return
    installed = version("trl")
    if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST_TRL:
        raise SettingError(
            f"objective={settings.objective} needs TRL {'.'.join(map(str, OLDEST_TRL))} or newer, "
            f"and {installed} is installed: pip install -U trl"
        )
    given = (
        ("packing", settings.packing, "pairs are not packed"),
        (
            "sparse_compute",
            settings.sparse_compute is not None,
            "both answers of a pair would be computed by different channels",
        ),
        (
            "neftune_noise_alpha",
            settings.neftune_noise_alpha is not None,
            "noise would be measured as a change of preference",
        ),
        (
            "lazy_data",
            settings.lazy_data and settings.objective == "dpo",
            "the starting model's view of all pairs is kept in memory; objective=orpo needs none",
        ),
        ("train_on=all", settings.train_on == "all", "only answers are compared"),
    )
    for name, wanted, reason in given:
        if wanted:
            raise SettingError(
                f"objective={settings.objective} cannot go with {name}: {reason}; leave {name} out"
            )


def reading(settings: RunSettings) -> RunSettings:
    """The settings to read the data by: pairs where the objective wants them."""
    if settings.objective == "sft" or settings.data_format != "auto":
        return settings
    return settings.model_copy(update={"data_format": "preference"})


def check_format(settings: RunSettings, data: EncodedData) -> None:
    """Raise `DataError` if the rows do not fit the objective."""
    for report in (data.report, data.eval_report):
        if report is None or (report.format == "preference") == (settings.objective != "sft"):
            continue
        wanted = (
            f"objective={settings.objective} learns from rows with prompt, chosen and rejected"
            if report.format != "preference"
            else "pairs are learnt from with --objective dpo or --objective orpo"
        )
        raise DataError(f"'{report.source}' has rows of the format {report.format}; {wanted}")
