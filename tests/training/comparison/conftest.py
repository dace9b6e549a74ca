import json
from contextlib import contextmanager
from functools import partial

import pytest

from gossamer.training.comparison.compare import compare
from gossamer.training.comparison.folder import read_json
from gossamer.training.comparison.jobs import Job, carry_out
from gossamer.training.comparison.progress import ComparisonProgress


@pytest.fixture(scope="session")
def sums(tmp_path_factory):
    """(training rows, held-out rows): a question with a number as its answer."""
    folder = tmp_path_factory.mktemp("sums")
    files = []
    for name, count in (("train", 24), ("test", 10)):
        path = folder / f"{name}.jsonl"
        rows = [
            {"prompt": f"{i} + 1?", "completion": f"It is {i + 1}.", "answer": str(i + 1)}
            for i in range(count)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(path)
    return tuple(files)


def run_here(job, folder, hear):
    """The job without a process of its own, which would spend seconds on imports."""
    if folder.outcome() is None:
        job.write(folder)
        described = Job(**read_json(folder.job))
        folder.finish(json.loads(json.dumps(carry_out(described, folder, hear))))
    return folder.outcome()


@pytest.fixture(scope="session")
def all_here():
    """Within it all jobs run in this process, and nothing is drawn, which takes long."""

    @contextmanager
    def inside(*, pictures=False):
        names = ["run.draw_loss_curve"]
        if not pictures:
            names += ["comparison.plots.draw_scores", "comparison.plots.draw_curves"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gossamer.training.comparison.compare.run_job", run_here)
            for name in names:
                patch.setattr(f"gossamer.training.{name}", lambda *given, **named: None)
            yield

    return inside


@pytest.fixture
def here(all_here):
    with all_here():
        yield


@pytest.fixture(scope="session")
def compared(tiny_model, sums):
    """`compared(folder, methods=...)`: a comparison of some milliseconds a step, shown nowhere."""

    def call(output, *, methods, screen=None, **settings):
        defaults = {
            "budget": "steps=6",
            "max_new_tokens": 8,
            "run": {"batch_size": 4, "save_every": 2},
        }
        train, held_out = sums
        held_out = settings.pop("eval", held_out)
        run = partial(compare, tiny_model, train, held_out, output, methods=methods)
        return run(screen=screen or ComparisonProgress(show=False), **{**defaults, **settings})

    return call


@pytest.fixture
def small(compared, tmp_path):
    """The same in a folder of the test's own, which needs no name."""
    return lambda output="out", **settings: compared(tmp_path / output, **settings)
