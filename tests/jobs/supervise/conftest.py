"""Supervisors of a test, which end with it."""

import pytest
from watched_case import Watched
from worker_case import quick_settings


@pytest.fixture
def watched(tmp_path):
    made = []

    def make(*, code=None, options=None, **settings):
        one = Watched(quick_settings(tmp_path, **settings), code=code, **(options or {}))
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()
