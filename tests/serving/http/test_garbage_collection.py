"""What start-up makes is no garbage: looking for some in it would hold up every stream."""

import gc

from live_server import live


def test_garbage_is_not_looked_for_in_what_the_server_was_made_of(make_engine):
    made_before = [object() for _ in range(3)], {}
    with live(make_engine()):
        assert gc.get_freeze_count() > 1000
        assert not any(each is made_before for each in gc.get_objects())
    assert gc.get_freeze_count() == 0
    assert any(each is made_before for each in gc.get_objects())
