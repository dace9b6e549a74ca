"""Refuses early what a federated run would refuse, before heavy libraries are loaded."""

from pathlib import Path

from gossamer.basemodel.find import require_known
from gossamer.errors import SettingError
from gossamer.federated.settings import FederatedSettings
from gossamer.methods import parse_settings
from gossamer.training.arguments import check_resumable, check_start
from gossamer.training.data.source import find_file
from gossamer.training.outputs.run_folder import check_free
from gossamer.training.outputs.run_record import FEDERATE

LOW_RANK = frozenset({"lora", "rslora", "qlora"})
METHODS: dict[str, frozenset[str]] = {
    "fedit": LOW_RANK | {"dora", "ia3", "pissa", "federa", "slora"},
    "ffa": LOW_RANK | {"pissa", "federa", "slora"},
    "rolora": LOW_RANK | {"pissa", "federa", "slora"},
    "flora": LOW_RANK - {"qlora"},
    "fedex": LOW_RANK - {"qlora"},
    "flex": LOW_RANK,
    "zero-pad": LOW_RANK,
}
"""The methods whose adapters each aggregation can make one of. What is added to a base needs one
in full; SLoRA's and PiSSA's starts are lost where clients begin again."""
PRIVATE = LOW_RANK | {"dora", "ia3"}
"""The methods whose clients know all but what learns from the seed."""


def check_names(settings: FederatedSettings, *, resume: bool, overwrite: bool) -> None:
    """Raise what a run would raise because of a name, or of settings that do not fit each other."""
    check_method(settings)
    check_folder(settings, resume=resume, overwrite=overwrite)
    require_known(settings.model)
    for name in (settings.data, settings.eval_data):
        if name is not None:
            find_file(name)


def check_folder(settings: FederatedSettings, *, resume: bool, overwrite: bool) -> None:
    """Raise unless the run can go on in its folder, or begin there."""
    output = Path(settings.output)
    if resume:
        check_resumable(output, command=FEDERATE)
    else:
        check_start(settings)
        check_free(output, overwrite=overwrite)


def check_method(settings: FederatedSettings) -> None:
    """Raise `SettingError` unless the aggregation can do with the method and its settings."""
    values = parse_settings(settings.method, settings.method_settings)
    able = METHODS[settings.aggregation]
    if settings.method not in able:
        raise SettingError(
            f"aggregation {settings.aggregation} cannot go with method '{settings.method}'; it can "
            f"with {', '.join(sorted(able))}"
        )
    if settings.privacy != "none" and settings.method not in PRIVATE:
        raise SettingError(
            f"privacy {settings.privacy} cannot go with method '{settings.method}', which sends "
            f"more than what learns; it can with {', '.join(sorted(PRIVATE))}"
        )
    if settings.aggregation != "fedit" and getattr(values, "keep_residual", False):
        raise SettingError(
            f"aggregation {settings.aggregation} cannot go with keep_residual; take fedit"
        )
    rank = getattr(values, "rank", None)
    if settings.ranks and rank is not None and max(settings.ranks) > rank:
        highest = max(settings.ranks)
        raise SettingError(
            f"ranks: {highest} is above the method's rank {rank}; give the method rank={highest}"
        )
