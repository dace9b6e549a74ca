"""Adapters that somebody made up: served without harm, or refused in one line."""

import itertools
import shutil
import time
from collections import Counter

import pytest
from mutate_adapter import hostile_adapter
from rig import AT_ONCE, Rig, peak_mib, refusal_of
from seeds import seeds

from gossamer.errors import GossamerError
from gossamer.serving.core.adapter import AdapterEntry

MOST_SECONDS = 3.0
"""Of the reading thread's own time, for an adapter of a tiny model."""
MOST_MIB = 400
"""That the process may grow by at its peak; hollow files claim 1024."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    made = Rig(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


def _at_length(quick, long):
    return pytest.mark.parametrize("count", [quick, pytest.param(long, marks=pytest.mark.slow)])


@_at_length(600, 100_000)
def test_any_files_are_read_or_refused(rig, tmp_path, count):
    before, ends = peak_mib(), Counter()
    for seed in seeds(count):
        case = hostile_adapter(rig.goods, seed)
        folder = tmp_path / "hostile"
        case.write(folder)
        started = time.thread_time()
        ends[_read(rig, case, folder)] += 1
        seconds = time.thread_time() - started
        assert seconds < MOST_SECONDS, f"{seconds:.1f} s: {case}"
        assert peak_mib() - before < MOST_MIB, f"{peak_mib() - before:.0f} MiB more: {case}"
        shutil.rmtree(folder)
    if count == sum(ends.values()):
        # Neither all too wild nor all too tame.
        assert ends["read"] > count / 10
        assert len(ends) >= 4, ends


def _read(rig, case, folder):
    try:
        rig.loader.load(AdapterEntry(name=folder.name, path=folder, signature=()))
    except GossamerError as error:
        # Places on the disk are taken out by whoever shows it to a client.
        error.args = (str(error).replace(str(folder), folder.name),)
        return refusal_of(case, error, folder)
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error}\n{case}") from error
    return "read"


@_at_length(120, 20_000)
def test_neighbours_in_the_batch_answer_as_alone(rig, count):
    ends, done = Counter(), 0
    cases = (hostile_adapter(rig.goods, seed) for seed in seeds(count, "2"))
    while group := list(itertools.islice(cases, AT_ONCE)):
        ends.update(rig.serve(group))
        done += len(group)
        if done % (10 * AT_ONCE) == 0:
            rig.check_idle(f"up to {group[-1]}")
    rig.check_idle("at the end")
    if count == sum(ends.values()):
        assert ends["served"] > count / 10
        assert len(ends) >= 4, ends
