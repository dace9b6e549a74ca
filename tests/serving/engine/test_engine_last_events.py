"""Whatever raises, is cancelled or hangs: a final event for each request, an end for each call."""

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest
from engine_case import Collector, ask, check_idle, hold_reading, refusal, slow_down, standing_still

from gossamer.errors import EngineStoppedError, GossamerError, ServingError, UnknownModelError
from gossamer.serving.core.futures import settle
from gossamer.serving.core.mailbox import Mailbox
from gossamer.serving.core.messages import Failed, Request, SamplingParams, Tokens
from gossamer.serving.engine import engine as engine_module
from gossamer.serving.engine.output import Receiver

WAIT = 60


def fail():
    raise RuntimeError("pretended")


# Messages and calls.


def test_a_message_that_raises_takes_no_other_with_it(make_engine):
    engine = make_engine()
    running = ask(engine, max_tokens=60)
    with standing_still(engine):
        engine.mailbox.post(fail)
        later = ask(engine)
        pinned = engine.pin_adapter("r4", pinned=True)
        engine.mailbox.post(fail)
    assert later.wait().finish_reason == "length"
    assert running.wait().finish_reason == "length"
    assert pinned.result(WAIT).pinned
    engine.pin_adapter("r4", pinned=False).result(WAIT)
    check_idle(engine)


@pytest.mark.parametrize("call", ["pin", "unpin", "load", "unload"])
def test_a_call_whose_caller_has_left_is_not_begun_and_reaches_nobody(make_engine, call):
    engine = make_engine()
    calls = {
        "pin": lambda: engine.pin_adapter("r4", pinned=True),
        "unpin": lambda: engine.pin_adapter("r4", pinned=False),
        "load": lambda: engine.load_adapter("r4", "r8", replace=True),
        "unload": lambda: engine.unload_adapter("r4"),
    }
    running = ask(engine, max_tokens=60)
    before = ask(engine, adapter="r4")
    with standing_still(engine):
        future = calls[call]()
        assert future.cancel()
        later = ask(engine, adapter="r4")
    assert running.wait().finish_reason == later.wait().finish_reason == "length"
    before.wait()
    assert later.tokens == before.tokens
    assert not {each.name: each.pinned for each in engine.adapters()}["r4"]
    check_idle(engine)


def test_a_call_that_is_under_way_goes_on_when_its_asyncio_caller_gives_up(
    make_engine, monkeypatch
):
    engine = make_engine()
    gate = hold_reading(monkeypatch)

    async def give_up():
        future = asyncio.wrap_future(engine.load_adapter("r4", pin=True))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.2)

    asyncio.run(give_up())
    other = ask(engine)
    gate.set()
    assert other.wait().finish_reason == "length"
    deadline = time.monotonic() + WAIT
    while not {each.name: each.pinned for each in engine.adapters()}["r4"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    engine.pin_adapter("r4", pinned=False).result(WAIT)
    check_idle(engine)


def test_a_future_that_its_holder_ended_or_whose_callback_fails_reaches_nobody(make_engine):
    engine = make_engine()
    with standing_still(engine):
        ended = engine.pin_adapter("r4", pinned=False)
        ended.set_result(None)
        failing = engine.pin_adapter("r8", pinned=False)
        failing.add_done_callback(lambda future: sys.exit())
        later = ask(engine)
    assert later.wait().finish_reason == "length"
    assert failing.result(WAIT).name == "r8"
    assert engine.healthy()
    check_idle(engine)


def test_a_fault_of_ours_in_a_call_about_an_adapter_is_told_to_its_caller(make_engine):
    engine = make_engine()
    engine.scheduler.memory.pin = lambda *args, **named: 1 / 0
    other = ask(engine, max_tokens=30)
    with pytest.raises(ServingError, match="see its log"):
        engine.pin_adapter("r4", pinned=True).result(WAIT)
    assert other.wait().finish_reason == "length"
    assert engine.healthy()


def test_settling_never_raises():
    from concurrent.futures import Future

    done = Future()
    done.set_result(1)
    settle(done, 2)
    assert done.result() == 1
    cancelled = Future()
    cancelled.cancel()
    settle(cancelled, error=ValueError())
    with pytest.raises(CancelledError):
        cancelled.result()


# Receivers.


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError]
)
def test_what_a_receiver_raises_is_its_own_affair(make_engine, error):
    engine = make_engine()
    bad, good = ask(engine, raises=error), ask(engine)
    assert bad.wait().finish_reason == good.wait().finish_reason == "length"
    assert len(bad.finals) == 1
    assert bad.tokens == good.tokens
    check_idle(engine)


def test_nothing_is_told_behind_the_final_event():
    seen = []
    receiver = Receiver(seen.append)
    token = Tokens(request_id="a", token_ids=(1,), text="x")
    final = Failed(request_id="a", error=ServingError("pretended"))
    for event in (token, final, token, final):
        receiver(event)
    assert seen == [token, final]


def test_a_receiver_may_end_the_engine(make_engine):
    engine = make_engine()

    class Ends(Collector):
        def __call__(self, event):
            super().__call__(event)
            if len(self.tokens) == 2:
                engine.shutdown()

    ends, other = Ends(), ask(engine, max_tokens=300)
    params = SamplingParams(max_tokens=300, temperature=0, ignore_eos=True)
    engine.submit(Request(request_id=ends.id, prompt_token_ids=(4,), sampling=params), ends)
    for one in (ends, other):
        assert one.wait().finish_reason == "cancelled"
    engine.join(WAIT)
    assert not engine.healthy()


# What cannot be queued, or counted.


def test_a_request_that_cannot_be_queued_ends_alone(make_engine):
    engine = make_engine()
    arrive, calls = engine.scheduler.counters.arrive, []

    def fail_once(tenant):
        calls.append(tenant)
        arrive(tenant)
        if len(calls) == 1:
            fail()

    running = ask(engine, max_tokens=60)
    while not running.events:
        time.sleep(0.005)
    engine.scheduler.counters.arrive = fail_once
    bad, good = ask(engine), ask(engine)
    assert isinstance(bad.wait(), Failed)
    assert good.wait().finish_reason == running.wait().finish_reason == "length"
    check_idle(engine)


def test_tokens_that_cannot_be_counted_end_their_request_only(make_engine):
    engine = make_engine()
    spend = engine.rate_limiter.spend

    def fail_for_one(tenant, tokens):
        spend(tenant, tokens)
        if tenant == "bad":
            fail()

    engine.rate_limiter.spend = fail_for_one
    bad = Collector()
    good = ask(engine)
    request = Request(
        request_id=bad.id,
        prompt_token_ids=(4,),
        tenant="bad",
        sampling=SamplingParams(max_tokens=4, ignore_eos=True),
    )
    engine.submit(request, bad)
    assert isinstance(bad.wait(), Failed)
    assert good.wait().finish_reason == "length"
    check_idle(engine)


# The end.


def test_an_engine_that_dies_ends_what_it_had_not_seen_and_calls_too(make_engine):
    engine = make_engine()

    def die():
        raise SystemExit

    running = ask(engine, max_tokens=300)
    with standing_still(engine):
        engine.mailbox.post(die)
        unseen = ask(engine)
        call = engine.pin_adapter("r4", pinned=True)
    for one in (running, unseen):
        assert isinstance(one.wait().error, EngineStoppedError)
    with pytest.raises(EngineStoppedError):
        call.result(WAIT)
    engine.join(WAIT)
    assert isinstance(refusal(engine), EngineStoppedError)
    engine.cancel(running.id)
    for late in (lambda: engine.unload_adapter("r4"), lambda: engine.load_adapter("r4")):
        with pytest.raises(EngineStoppedError):
            late()


def test_a_scheduler_that_cannot_give_a_request_up_ends_the_engine_and_everyone_is_told(
    make_engine,
):
    engine = make_engine()
    slow_down(engine)
    several = [ask(engine, adapter=name, max_tokens=300) for name in (None, "r4", "r8")]
    while not all(one.events for one in several):
        time.sleep(0.005)
    engine.scheduler.remove = lambda sequence: fail()
    engine.cancel(several[0].id)
    engine.scheduler.plan = fail
    for one in several:
        assert isinstance(one.wait(), Failed)
        assert len(one.finals) == 1
    engine.join(WAIT)
    assert not engine.healthy()


def test_a_call_that_comes_between_the_open_door_and_the_end_is_refused(make_engine):
    engine = make_engine()
    healthy = engine.healthy

    def then_the_engine_ends():
        was_healthy = healthy()
        engine.shutdown()
        return was_healthy

    engine.healthy = then_the_engine_ends
    with pytest.raises(EngineStoppedError):
        engine.load_adapter("r4")


def test_a_closed_mailbox_takes_no_message():
    mailbox = Mailbox()
    mailbox.post(fail)
    assert mailbox.close() == [fail]
    with pytest.raises(EngineStoppedError):
        mailbox.post(fail)
    mailbox.post()


@pytest.mark.parametrize("hangs", ["step", "receiver"])
def test_an_engine_that_hangs_is_given_up_and_everyone_is_told(make_engine, monkeypatch, hangs):
    monkeypatch.setattr(engine_module, "STOP_SECONDS", 0.3)
    engine = make_engine(max_running=1)
    gate, inside = threading.Event(), threading.Event()
    run = engine.runner.model.run

    def hang(batch):
        inside.set()
        assert gate.wait(WAIT)
        return run(batch)

    class Hangs(Collector):
        def __call__(self, event):
            super().__call__(event)
            if hangs == "receiver" and isinstance(event, Tokens):
                inside.set()
                assert gate.wait(WAIT)

    if hangs == "step":
        engine.runner.model.run = hang
    stuck = Hangs()
    params = SamplingParams(max_tokens=300, temperature=0, ignore_eos=True)
    engine.submit(Request(request_id=stuck.id, prompt_token_ids=(4,), sampling=params), stuck)
    assert inside.wait(WAIT)
    waiting, call = ask(engine), engine.pin_adapter("r4", pinned=True)
    engine.shutdown(drain_seconds=0.1)
    for one in (stuck, waiting):
        assert isinstance(one.wait().error, EngineStoppedError)
    if hangs == "step":
        with pytest.raises(EngineStoppedError):
            call.result(WAIT)
    else:
        # The engine itself goes on.
        assert call.result(WAIT).pinned
    # It comes back to life, and finds that all is over.
    gate.set()
    assert engine.join(WAIT)
    assert [len(one.finals) for one in (stuck, waiting)] == [1, 1]
    assert isinstance(stuck.events[-1], Failed)


def test_everything_at_once_while_the_engine_ends(make_engine):
    """Requests, cancels, loads and pins from several threads: none stays without an answer."""
    engine = make_engine()
    requests, futures, stop = [], [], threading.Event()

    def busy(name):
        while not stop.is_set():
            try:
                requests.append(ask(engine, adapter=name, max_tokens=3))
                engine.cancel(requests[-1].id)
                futures.append(engine.load_adapter(name, pin=True))
                futures.append(engine.pin_adapter(name, pinned=False))
                futures[-1].cancel()
                futures.append(engine.unload_adapter(name))
                futures.append(engine.load_adapter(name))
            except EngineStoppedError:
                return
            except GossamerError:
                time.sleep(0.001)

    threads = [threading.Thread(target=busy, args=(name,)) for name in ("r1", "r4", "r8")]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    enders = [threading.Thread(target=engine.shutdown) for _ in range(2)]
    for thread in enders:
        thread.start()
    for thread in (*enders, *threads):
        thread.join(WAIT)
    stop.set()
    assert requests
    assert futures
    for one in requests:
        one.wait()
        assert len(one.finals) == 1
    for future in futures:
        assert future.done()
    told = [f.exception() for f in futures if not f.cancelled() and f.exception() is not None]
    assert {type(error) for error in told} <= {EngineStoppedError, UnknownModelError}


def test_an_interpreter_ends_although_nobody_stopped_the_engine_and_its_disk_hangs(
    tiny_model, adapters
):
    code = (
        "import sys, time\n"
        "from gossamer.llm import LLM\n"
        "from gossamer.serving.core.messages import SamplingParams, Request\n"
        "from gossamer.serving.runner.adapter_loader import AdapterLoader\n"
        f"llm = LLM({str(tiny_model)!r}, adapters={str(adapters)!r}, memory_gib=0.002,\n"
        "    backend='reference', threads=1)\n"
        "AdapterLoader.load = lambda self, entry: time.sleep(1000)\n"
        "for name in (None, 'r4'):\n"
        "    llm.engine.submit(Request(request_id=str(name), prompt_token_ids=(5,), adapter=name,\n"
        "        sampling=SamplingParams(max_tokens=500, ignore_eos=True)), lambda event: None)\n"
        "print('begun', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "begun\n", "")
