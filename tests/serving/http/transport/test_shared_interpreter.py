"""What the server sets up so that the engine and those who read requests can share Python."""

import gc
import sys

import pytest
from live_server import live, started

from gossamer.serving.http.transport.server import TURN_SECONDS


def test_garbage_is_not_looked_for_in_what_the_server_was_made_of(make_engine):
    # What start-up makes is no garbage: looking for some in it would hold up every stream.
    made_before = [object() for _ in range(3)], {}
    gc.unfreeze()
    with started(make_engine()):
        assert gc.get_freeze_count() > 1000
        assert not any(each is made_before for each in gc.get_objects())
    assert gc.get_freeze_count() == 0
    assert any(each is made_before for each in gc.get_objects())


def test_a_busy_thread_lets_the_engine_go_on_soon(make_engine):
    usual = sys.getswitchinterval()
    with live(make_engine()):
        assert sys.getswitchinterval() == pytest.approx(TURN_SECONDS)
    assert sys.getswitchinterval() == pytest.approx(usual)
