"""What jobs would take: asked of a process, one after the other, and remembered."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gossamer.jobs.kinds.compare import estimate_comparison

MAX_KEPT = 200

Estimate = dict[str, Any]


class TrialEstimator(Protocol):
    """What asks a process for an estimate (`jobs.supervise.estimate`)."""

    def ask(self, model: str, run: Mapping[str, Any], rows: Mapping[str, str]) -> Estimate:
        """Say what a run on `model` would take; raises `JobError` for one that cannot be."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A run of which an estimate may be asked."""

    model: str
    run: dict[str, Any]
    rows: dict[str, str]
    """Digests of the rows, by the names that the settings of the run give them."""

    @property
    def key(self) -> str:
        """A word that runs share which take the same: the seed changes nothing."""
        run = {name: value for name, value in self.run.items() if name != "seed"}
        text = json.dumps([self.model, run, self.rows], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ComparisonTrial:
    """A comparison of which an estimate may be asked."""

    model: str
    resolved: dict[str, Any]
    """What the comparison is, as `jobs.kinds.compare` has resolved it."""
    rows: dict[str, str]
    """The digest of the rows, by the name that runs have for them."""

    def run(self, values: dict[str, Any]) -> Trial:
        """One of its runs, of those settings."""
        return Trial(self.model, values, self.rows)


class _NotKnown(Exception):
    """A run of which nothing was asked yet."""


class Trials:
    """The estimates of one server. From any thread."""

    def __init__(self, estimator: TrialEstimator | None) -> None:
        """Without an `estimator` nothing is known."""
        self._estimator = estimator
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Estimate] = OrderedDict()

    def known(self, trial: Trial) -> Estimate | None:
        """The estimate of such a run, if it was asked for lately."""
        with self._lock:
            return self._known.get(trial.key)

    def of(self, trial: Trial) -> Estimate | None:
        """The estimate of a run, which may take a while; raises `JobError` for one that cannot be.

        None: there is no one to ask.
        """
        found = self.known(trial)
        if found is not None or self._estimator is None:
            return found
        found = self._estimator.ask(trial.model, trial.run, trial.rows)
        with self._lock:
            self._known[trial.key] = found
            while len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
        return found

    def of_comparison(self, trial: ComparisonTrial) -> Estimate | None:
        """The estimate of all runs of a comparison, which takes the longer the more methods are not
        known yet; raises `JobError` if none of them can be. None: there is no one to ask."""
        if self._estimator is None:
            return self.known_comparison(trial)

        def ask(values: dict[str, Any]) -> Estimate:
            found = self.of(trial.run(values))
            assert found is not None
            return found

        return estimate_comparison(trial.resolved, ask)

    def known_comparison(self, trial: ComparisonTrial) -> Estimate | None:
        """The estimate of all runs of a comparison, if each of them was asked for lately."""

        def ask(values: dict[str, Any]) -> Estimate:
            found = self.known(trial.run(values))
            if found is None:
                raise _NotKnown
            return found

        try:
            return estimate_comparison(trial.resolved, ask)
        except _NotKnown:
            return None


def shown_estimate(found: Estimate) -> Estimate:
    """Show an estimate, with what its time is known from."""
    source = (
        "measured here" if found.get("seconds") else "no run of this kind was measured here yet"
    )
    return {**found, "memory_bytes": found.get("memory"), "source": source}
