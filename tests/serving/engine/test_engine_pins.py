"""Adapters that are pinned while the engine runs, and what becomes of pins when files change."""

import shutil
import time

import pytest
from engine_case import (
    ask,
    ask_tokens,
    check_idle,
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
