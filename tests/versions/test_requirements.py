"""The two ends of the ranges, as `make test-oldest` and `make test-newest` install them."""

import pytest
import requirements
from house import ROOT
from packaging.requirements import Requirement
from packaging.version import Version


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def of(end):
    return {r.name: r.specifier for r in map(Requirement, requirements.requirements(end))}


def test_the_oldest_are_the_floors_of_the_ranges():
    for name in requirements.STANDS_ON:
        (only,) = of("oldest")[name]
        assert only.operator == "=="
        assert Version(only.version) in of("newest")[name]
    assert not any(s.operator == "==" for s in of("oldest")["numpy"])


def test_the_newest_have_no_upper_bounds():
    for name, specifier in of("newest").items():
        assert not any(s.operator in ("<", "<=", "==") for s in specifier), name


def test_the_pinned_versions_lie_between():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    for name in requirements.STANDS_ON:
        (floor,) = of("oldest")[name]
        assert Version(floor.version) < Version(pins[name]), name
