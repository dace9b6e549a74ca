"""Before anything heavy: data read, entries checked, sizes chosen."""

from typing import Any

from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_tokenizer
from gossamer.errors import BaseModelError, DataError, GossamerError
from gossamer.training.comparison.entries import Entry
from gossamer.training.comparison.settings import CompareSettings
from gossamer.training.comparison.size import fit_size
from gossamer.training.data import load_data
from gossamer.training.device import choose_device
from gossamer.training.evaluation import load_eval_set
from gossamer.training.plan import make_plan
from gossamer.training.prepare import prepare
from gossamer.training.record import recorded_facts
from gossamer.training.settings import RunSettings


def make_comparison_plan(settings: CompareSettings) -> dict[str, Any]:
    """What the comparison will do: `facts` of model and data, and `entries` by label.

    An entry is `{"method_settings": {...}}`, or `{"refused": reason}` if this base model or this
    machine does not allow it. Raises a `GossamerError` for what concerns all entries.
    """
    base = scoring_settings(settings)
    tokenizer = load_tokenizer(resolve(settings.model))
    choose_device(base.device)
    held_out = load_eval_set(settings.eval, settings, base, tokenizer)
    rows = len(load_data(base, tokenizer, seed=base.seed).train)
    from gossamer.basemodel.fingerprint import fingerprint

    recorded = recorded_facts(
        base.model_copy(update={"eval_data": settings.eval}),
        base_fingerprint=fingerprint(resolve(settings.model)),
    )
    return {
        "facts": {
            **{key: recorded[key] for key in ("base_fingerprint", "data_sha256", "versions")},
            "train_rows": rows,
            "steps": make_plan(base, rows).steps,
            "rows_per_step": base.batch_size * base.gradient_accumulation,
            "eval_rows": len(held_out.rows),
            "score": held_out.score,
        },
        "entries": {entry.label: _checked(entry, settings) for entry in settings.entries()},
    }


def scoring_settings(settings: CompareSettings) -> RunSettings:
    """The settings that all runs share: how rows are read, device and compute type."""
    plain = Entry(label="all runs", method="full", given={}, run={})
    return settings.run_settings(plain, seed=settings.seeds[0], output="")


def _checked(entry: Entry, settings: CompareSettings) -> dict[str, Any]:
    run = settings.run_settings(entry, seed=settings.seeds[0], output="")
    try:
        prepared = prepare(run)
    except (BaseModelError, DataError):
        raise
    except GossamerError as error:
        return {"refused": str(error)}
    budget = settings.limits().params
    if budget is None:
        return {"method_settings": run.method_settings}
    return {"method_settings": fit_size(prepared.method, entry, prepared.context, budget)}
