"""Loading, unloading and pinning on a running engine: real files, real weights."""

import os
import shutil
import threading
import time

import pytest
from engine_case import (
    ask,
    ask_tokens,
    check_idle,
    hold_reading,
    refusal,
    slow_down,
    standing_still,
)

from gossamer.errors import (
    AdapterFormatError,
    AdapterNotFoundError,
    EngineStoppedError,
    RequestError,
    UnknownModelError,
)
from gossamer.serving.runner.adapter_loader import AdapterLoader
from gossamer.serving.scheduler.order import LOAD_AHEAD
from gossamer.serving.store.folder import signature

from tiny import make_lora

WAIT = 60


def test_an_adapter_is_loaded_from_below_a_root_and_served(make_engine, shelf):
    engine = make_engine(shelf)
    assert type(refusal(engine, adapter="poet")) is UnknownModelError
    status = engine.load_adapter("poet", "shelf/one").result(WAIT)
    assert (status.state, status.rank, status.requests) == ("host", 4, 0)
    poet = ask_tokens(engine, "poet")
    assert poet != ask_tokens(engine, None)
    engine.load_adapter("again", str(shelf / "shelf" / "one")).result(WAIT)
    assert ask_tokens(engine, "again") == poet
    assert {each.name: each.state for each in engine.adapters()} == {
        "poet": "resident",
        "again": "resident",
    }
    assert [each.hits for each in engine.adapters()] == [1, 1]
    check_idle(engine)


def test_several_roots(make_engine, shelf, tiny_model, tmp_path):
    make_lora(tmp_path / "second" / "b", tiny_model, rank=2)
    engine = make_engine(shelf / "shelf")
    assert [each.name for each in engine.adapters()] == ["one", "two"]
    both = make_engine((shelf / "shelf", tmp_path / "second"))
    assert [each.name for each in both.adapters()] == ["b", "one", "two"]
    assert ask_tokens(both, "b")


def test_paths_outside_the_roots_are_refused(make_engine, shelf, tiny_model, tmp_path):
    secret = make_lora(tmp_path / "secret", tiny_model, rank=4)
    (shelf / "link").symlink_to(secret)
    os.makedirs(shelf / "half")
    shutil.copy(secret / "adapter_config.json", shelf / "half")
    (shelf / "half" / "adapter_model.safetensors").symlink_to(secret / "adapter_model.safetensors")
    (shelf / "round").symlink_to("round")
    engine = make_engine(shelf)
    bad = [
        "../secret",
        str(secret),
        "link",
        "half",
        "shelf/../../secret",
        "/",
        "",
        "a\x00b",
        "~",
        "round",
        "x" * 5000,
        "http://elsewhere/a",
        "file:///etc",
    ]
    for path in bad:
        with pytest.raises((RequestError, AdapterNotFoundError)) as caught:
            engine.load_adapter("x", path)
        # The message repeats what was asked for, and says nothing of what lies there.
        assert "secret" not in str(caught.value).replace(path, "")
        assert "\n" not in str(caught.value)
    with pytest.raises(AdapterNotFoundError):
        engine.load_adapter("x", "shelf")
    pickled = shelf / "pickled"
    shutil.copytree(shelf / "shelf" / "one", pickled)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(AdapterFormatError, match="can run code"):
        engine.load_adapter("x", "pickled")
    for name in ("", "a/b", "a+b", "a:1", "..", " a", "a\n", "x" * 201, engine.model_name):
        with pytest.raises(RequestError):
            engine.load_adapter(name, "shelf/one")


def test_a_broken_adapter_is_told_to_who_loads_it_and_mended_files_are_tried_again(
    make_engine, shelf
):
    engine = make_engine(shelf)
    weights = shelf / "shelf" / "one" / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:100])
    with pytest.raises(AdapterFormatError, match="truncated or damaged"):
        engine.load_adapter("x", "shelf/one").result(WAIT)
    assert type(refusal(engine, adapter="x")) is AdapterFormatError
    weights.write_bytes(good)
    assert engine.load_adapter("x", "shelf/one").result(WAIT).state == "host"
    assert ask_tokens(engine, "x")


def test_a_taken_name_is_replaced_only_when_asked(make_engine, shelf):
    engine = make_engine(shelf)
    engine.load_adapter("x", "shelf/one").result(WAIT)
    engine.load_adapter("x", "shelf/one").result(WAIT)
    before = ask_tokens(engine, "x", prompt=range(3, 60))
    with pytest.raises(RequestError, match="load_inplace"):
        engine.load_adapter("x", "shelf/two").result(WAIT)
    engine.load_adapter("x", "shelf/two", replace=True).result(WAIT)
    after = ask_tokens(engine, "x", prompt=range(3, 60))
    assert after != before
    engine.load_adapter("y", "shelf/two").result(WAIT)
    assert ask_tokens(engine, "y", prompt=range(3, 60)) == after
    check_idle(engine)


@pytest.mark.parametrize("pinned", [False, True])
def test_a_replacement_that_proves_broken_leaves_what_works_as_it_was(make_engine, shelf, pinned):
    engine = make_engine(shelf)
    engine.load_adapter("x", "shelf/one", pin=pinned).result(WAIT)
    before = ask_tokens(engine, "x", max_tokens=100)
    weights = shelf / "shelf" / "two" / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-64])
    running = ask(engine, adapter="x", max_tokens=100)
    for pin in (False, True):
        with pytest.raises(AdapterFormatError):
            engine.load_adapter("x", "shelf/two", replace=True, pin=pin).result(WAIT)
        assert ask_tokens(engine, "x", max_tokens=100) == before
        (status,) = engine.adapters()
        assert (status.name, status.pinned) == ("x", pinned)
    running.wait()
    assert running.tokens == before
    weights.write_bytes(good)
    status = engine.load_adapter("x", "shelf/two", replace=True).result(WAIT)
    assert status.pinned == pinned
    assert ask_tokens(engine, "x", max_tokens=100) != before
    if pinned:
        engine.pin_adapter("x", pinned=False).result(WAIT)
    check_idle(engine)


def test_until_the_new_files_are_read_the_name_means_the_old_ones(make_engine, shelf, monkeypatch):
    engine = make_engine(shelf)
    engine.load_adapter("x", "shelf/one").result(WAIT)
    before = ask_tokens(engine, "x", max_tokens=40)
    gate = hold_reading(monkeypatch)
    replacing = engine.load_adapter("x", "shelf/two", replace=True)
    assert ask_tokens(engine, "x", max_tokens=40) == before
    assert not replacing.done()
    gate.set()
    replacing.result(WAIT)
    assert ask_tokens(engine, "x", max_tokens=40) != before
    check_idle(engine)


@pytest.mark.parametrize("meanwhile", ["unload", "load"])
def test_a_replacement_that_was_overtaken_changes_nothing(
    make_engine, shelf, meanwhile, monkeypatch
):
    engine = make_engine(shelf)
    engine.load_adapter("x", "shelf/one").result(WAIT)
    gate = hold_reading(monkeypatch)
    replacing = engine.load_adapter("x", "shelf/two", replace=True)
    if meanwhile == "unload":
        engine.unload_adapter("x").result(WAIT)
    else:
        engine.load_adapter("x", "shelf/one", replace=True).result(WAIT)
    gate.set()
    with pytest.raises(RequestError, match="while its new files were read"):
        replacing.result(WAIT)
    if meanwhile == "unload":
        assert type(refusal(engine, adapter="x")) is UnknownModelError
    else:
        assert ask_tokens(engine, "x")
    check_idle(engine)


def test_the_engine_goes_on_while_a_disk_hangs_that_a_call_must_look_at(
    make_engine, shelf, monkeypatch
):
    engine = make_engine(shelf)
    engine.load_adapter("x", "shelf/one").result(WAIT)
    gate = threading.Event()
    monkeypatch.setattr(
        "gossamer.serving.store.names.signature",
        lambda path: (gate.wait(WAIT), signature(path))[1],
    )
    calls = [
        lambda: engine.pin_adapter("x", pinned=True),
        lambda: engine.load_adapter("x", "shelf/two", replace=True),
        lambda: engine.unload_adapter("x"),
    ]
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for _ in range(5):
        assert ask(engine).wait().finish_reason == "length"
    assert all(thread.is_alive() for thread in threads)
    gate.set()
    for thread in threads:
        thread.join(WAIT)


def test_an_unload_during_generation_waits_for_it(make_engine, shelf):
    """Running requests end with the old weights, new ones get 404, and the name can come back."""
    engine = make_engine(shelf)
    engine.load_adapter("x", "shelf/one").result(WAIT)
    want = ask_tokens(engine, "x", max_tokens=100)
    slow_down(engine)
    running = ask(engine, adapter="x", max_tokens=100)
    while len(running.events) < 3:
        time.sleep(0.002)
    gone = engine.unload_adapter("x")
    while not isinstance(refusal_or_none(engine, "x"), UnknownModelError):
        time.sleep(0.002)
    assert not gone.done()
    assert [each.state for each in engine.adapters()] == ["draining"]
    engine.load_adapter("x", "shelf/two").result(WAIT)
    new = ask_tokens(engine, "x")
    gone.result(WAIT)
    running.wait()
    assert running.tokens == want
    assert new != want[:8]
    check_idle(engine)


def refusal_or_none(engine, name):
    try:
        ask(engine, adapter=name, max_tokens=1).wait()
    except UnknownModelError as error:
        return error
    return None


def test_unload_frees_memory_and_unknown_names_are_told(make_engine, shelf):
    engine = make_engine(shelf)
    engine.load_adapter("x", "shelf/one").result(WAIT)
    ask_tokens(engine, "x", prompt=range(3, 60))
    engine.unload_adapter("x").result(WAIT)
    stats = engine.stats()
    assert stats.blocks_adapters == stats.host_bytes == 0
    assert stats.blocks_cached == 0
    with pytest.raises(UnknownModelError):
        engine.unload_adapter("x").result(WAIT)


def test_an_answer_cut_for_want_of_memory_ends_with_length_and_all_its_text(make_engine, shelf):
    """Its last block is pinned away while it runs, and it named no number of tokens."""
    engine = make_engine(shelf, num_blocks=34)
    slow_down(engine, 0.002)
    one = ask(engine, prompt=[7] * 300, max_tokens=None, stop=("never said",))
    while not one.events:
        time.sleep(0.001)
    status = engine.load_adapter("x", "shelf/one", pin=True).result(WAIT)
    assert status.pinned
    final = one.wait()
    assert (final.finish_reason, final.completion_tokens) == ("length", len(one.tokens))
    assert len(one.tokens) + 300 <= 16 * (34 - engine.scheduler.memory.num_pinned_blocks) + 1
    assert one.text == engine.tokenizer.decode(one.tokens)
    check_idle(engine)


def test_a_slow_copy_does_not_stall_running_requests(make_engine, shelf, monkeypatch):
    # As if the adapter were a large one.
    monkeypatch.setattr("gossamer.serving.engine.assemble.AT_ONCE_BYTES", 0)
    engine = make_engine(shelf)
    gate, place = threading.Event(), AdapterLoader.place

    def slow_place(loader, rows, blocks, after):
        assert gate.wait(WAIT)
        return place(loader, rows, blocks, after)

    engine.load_adapter("x", "shelf/one").result(WAIT)
    monkeypatch.setattr(AdapterLoader, "place", slow_place)
    one = ask(engine, adapter="x")
    others = [ask(engine, max_tokens=30) for _ in range(4)]
    for other in others:
        assert other.wait().finish_reason == "length"
    assert one.events == []
    gate.set()
    one.wait()
    assert one.tokens != others[0].tokens[:8]
    check_idle(engine)


def test_a_stopping_engine_refuses_and_ends_what_waits(make_engine, shelf, monkeypatch):
    engine = make_engine(shelf)
    gate = hold_reading(monkeypatch)
    waiting = engine.load_adapter("x", "shelf/one")
    stopper = threading.Thread(target=engine.shutdown)
    stopper.start()
    with pytest.raises(EngineStoppedError):
        waiting.result(WAIT)
    gate.set()
    stopper.join()
    for call in (
        lambda: engine.load_adapter("x", "shelf/one"),
        lambda: engine.unload_adapter("x"),
        lambda: engine.pin_adapter("x", pinned=True),
    ):
        with pytest.raises(EngineStoppedError):
            call()


def tell_of_reading(monkeypatch):
    """An event that is set when an adapter has been read."""
    read, load = threading.Event(), AdapterLoader.load

    def told(loader, entry):
        loaded = load(loader, entry)
        read.set()
        return loaded

    monkeypatch.setattr(AdapterLoader, "load", told)
    return read


def test_an_adapter_is_read_during_the_step_in_which_it_is_asked_for(
    make_engine, shelf, monkeypatch
):
    engine = make_engine(shelf / "shelf")
    in_step, go_on, sizes = threading.Event(), threading.Event(), []
    read = tell_of_reading(monkeypatch)
    run = engine.runner.model.run

    def held(batch):
        sizes.append(len(batch.sampled))
        if len(sizes) == 3:
            in_step.set()
            assert go_on.wait(WAIT)
        return run(batch)

    engine.runner.model.run = held
    running = ask(engine, max_tokens=6)
    assert in_step.wait(WAIT)
    late = ask(engine, adapter="one", max_tokens=1)
    assert read.wait(WAIT)
    time.sleep(0.05)
    go_on.set()
    running.wait()
    late.wait()
    assert sizes[:4] == [1, 1, 1, 2], "it did not join the next step"
    check_idle(engine)


def test_behind_a_long_queue_nothing_is_read_early(make_engine, shelf, monkeypatch):
    """Or the rows of all adapters that anyone waits for would lie in memory."""
    engine = make_engine(shelf / "shelf", max_running=1)
    read = tell_of_reading(monkeypatch)
    with standing_still(engine):
        waiting = [ask(engine, max_tokens=1) for _ in range(LOAD_AHEAD + 1)]
        waiting.append(ask(engine, adapter="one", max_tokens=1))
        time.sleep(0.05)
        assert not read.is_set()
    for collector in waiting:
        collector.wait()
    check_idle(engine)
