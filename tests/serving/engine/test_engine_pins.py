"""Adapters that are pinned or held while the engine runs.

What becomes of pins when files change, and of calls on their way when adapters are unloaded.
"""

import shutil
import time

import pytest
from engine_case import (
    ask,
    ask_tokens,
    check_idle,
    standing_still,
)

from gossamer.errors import (
    CapacityError,
    UnknownModelError,
)

WAIT = 60


def test_pinned_adapters_stay_and_too_large_pins_are_refused(make_engine, shelf):
    engine = make_engine(shelf, num_blocks=30)
    status = engine.load_adapter("x", "shelf/one", pin=True).result(WAIT)
    assert (status.state, status.pinned) == ("resident", True)
    engine.load_adapter("y", "shelf/two").result(WAIT)
    blocks = engine.stats().blocks_adapters
    if 2 * blocks > 15:
        with pytest.raises(CapacityError):
            engine.pin_adapter("y", pinned=True).result(WAIT)
    for first in range(3, 30):
        ask_tokens(engine, None, prompt=[first] * 100)
    assert {e.name: e.state for e in engine.adapters()}["x"] == "resident"
    assert engine.pin_adapter("x", pinned=False).result(WAIT).pinned is False
    with pytest.raises(UnknownModelError):
        engine.pin_adapter("z", pinned=True).result(WAIT)
    check_idle(engine)


def test_a_pin_holds_for_the_name_when_other_files_come_to_lie_under_it(make_engine, shelf):
    engine = make_engine(shelf, num_blocks=60)
    engine.load_adapter("x", "shelf/one", pin=True).result(WAIT)
    pinned = engine.stats().blocks_adapters
    former = ask_tokens(engine, "x")
    engine.load_adapter("x", "shelf/two", replace=True).result(WAIT)
    assert ask_tokens(engine, "x") != former
    for _ in range(500):
        if engine.adapters()[0].pinned:
            break
        time.sleep(0.01)
    assert [(e.name, e.state, e.pinned) for e in engine.adapters()] == [("x", "resident", True)]
    assert engine.scheduler.memory.num_pinned_blocks == engine.stats().blocks_adapters == pinned
    assert engine.pin_adapter("x", pinned=False).result(WAIT).pinned is False
    assert engine.scheduler.memory.num_pinned_blocks == 0
    check_idle(engine)


def test_who_unpins_a_name_does_so_for_files_that_were_changed_meanwhile(make_engine, shelf):
    engine = make_engine(shelf, num_blocks=60)
    engine.load_adapter("x", "shelf/one", pin=True).result(WAIT)
    weights = "adapter_model.safetensors"
    shutil.copy(shelf / "shelf" / "two" / weights, shelf / "shelf" / "one" / weights)
    assert engine.pin_adapter("x", pinned=False).result(WAIT).pinned is False
    for _ in range(3):
        ask_tokens(engine, "x")
    assert [each.pinned for each in engine.adapters()] == [False]
    assert engine.scheduler.memory.num_pinned_blocks == 0
    check_idle(engine)


def test_a_pin_that_its_successor_cannot_take_over_is_logged(make_engine, shelf, caplog):
    engine = make_engine(shelf, num_blocks=60)
    engine.load_adapter("x", "shelf/one", pin=True).result(WAIT)
    (shelf / "shelf" / "one" / "adapter_model.safetensors").write_bytes(b"torn")
    assert ask(engine, adapter="x").wait().error is not None
    for _ in range(500):
        if "adapter x is no longer pinned" in caplog.text:
            break
        time.sleep(0.01)
    assert "adapter x is no longer pinned" in caplog.text
    assert engine.scheduler.memory.num_pinned_blocks == 0
    check_idle(engine)


@pytest.mark.parametrize("name", ["x", "x:0.7+y:0.3"])
def test_an_unload_waits_for_calls_that_hold_the_adapter(make_engine, shelf, name):
    engine = make_engine(shelf)
    for each, folder in (("x", "one"), ("y", "two")):
        engine.load_adapter(each, f"shelf/{folder}").result(WAIT)
    want = ask_tokens(engine, name)
    found = engine.look_up(name).result(WAIT)
    let_go = [engine.hold(found) for _ in range(2)]
    gone = engine.unload_adapter("x")
    assert isinstance(refusal_of(engine, "x"), UnknownModelError)
    let_go[0]()
    engine.audit()
    assert not gone.done()
    assert engine.adapter("x").state == "draining"
    # The engine takes in the request before it is let go, though all is found at once.
    with standing_still(engine):
        one = ask(engine, adapter=name, found=found)
        let_go[1]()
    one.wait()
    assert one.tokens == want
    gone.result(WAIT)
    check_idle(engine)


def test_what_is_held_after_an_unload_stays_unloaded_and_is_let_go(make_engine, shelf):
    engine = make_engine(shelf)
    engine.load_adapter("x", "shelf/one").result(WAIT)
    found = engine.look_up("x").result(WAIT)
    engine.unload_adapter("x").result(WAIT)
    let_go = engine.hold(found)
    assert isinstance(ask(engine, adapter="x", found=found).wait().error, UnknownModelError)
    let_go()
    check_idle(engine)
    engine.shutdown()
    engine.hold(found)()


def refusal_of(engine, name):
    """The error of a request for a name that is being taken away."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        try:
            ask(engine, adapter=name, max_tokens=1).wait()
        except UnknownModelError as error:
            return error
    raise AssertionError("it can still be named")
