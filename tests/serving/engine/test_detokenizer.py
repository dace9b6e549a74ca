"""The thread that tells events: order, receivers that are slow, and what is left at the end."""

import threading
import time

import pytest
from engine_case import Collector, ask, check_idle

from gossamer.errors import EngineStoppedError
from gossamer.serving.core.messages import Failed, Finished, Request, SamplingParams, Tokens
from gossamer.serving.engine.detokenizer import Detokenizer
from gossamer.serving.engine.output import Receiver

WAIT = 30
LONG = SamplingParams(max_tokens=300, temperature=0, ignore_eos=True)


class Output:
    """What a detokenizer knows of a request; each call adds to `told`."""

    def __init__(self, name, told):
        self.name = name
        self.emit = Receiver(lambda event: told.append((name, event)))
        self.is_given_up = False

    def give_up(self):
        self.is_given_up = True

    def fail(self, error):
        self.emit(Failed(request_id=self.name, error=error))


def token(number):
    return Tokens(request_id="", token_ids=(number,), text="")


@pytest.fixture
def made():
    """`made(wake, on_fault, most)`: a detokenizer that is running, and ends with the test."""
    running = []

    def make(wake=lambda: None, on_fault=lambda output: None, most=4096):
        running.append(Detokenizer(wake, on_fault, most))
        running[-1].start()
        return running[-1]

    yield make
    for each in running:
        each.end()
        assert each.join(WAIT)


def test_calls_are_made_in_order_on_one_thread(made):
    detokenizer, told, threads = made(), [], set()
    outputs = [Output(name, told) for name in "ab"]
    for number in range(500):
        for output in outputs:
            event = token(number)

            def tell(output=output, event=event):
                threads.add(threading.current_thread())
                output.emit(event)

            detokenizer.tell(output, tell)
    detokenizer.end()
    assert detokenizer.join(WAIT)
    assert [(n, e.token_ids[0]) for n, e in told] == [(n, i) for i in range(500) for n in "ab"]
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_a_call_that_fails_is_told_and_those_behind_it_are_made(made):
    faults, told = [], []
    detokenizer = made(on_fault=faults.append)
    bad, good = Output("bad", told), Output("good", told)
    detokenizer.tell(bad, lambda: 1 / 0)
    detokenizer.tell(good, lambda: good.emit(token(1)))
    detokenizer.end()
    assert detokenizer.join(WAIT)
    assert faults == [bad]
    assert bad.is_given_up
    assert not good.is_given_up
    assert [name for name, _ in told] == ["good"]


def test_it_says_that_it_is_behind_and_wakes_once_when_it_has_caught_up(made):
    gate, woken, told = threading.Event(), threading.Semaphore(0), []
    detokenizer = made(wake=woken.release, most=10)
    output = Output("a", told)
    detokenizer.tell(output, lambda: gate.wait(WAIT))
    detokenizer.flush()
    assert not detokenizer.is_behind
    for number in range(20):
        detokenizer.tell(output, lambda number=number: told.append(number))
    detokenizer.flush()
    assert detokenizer.is_behind
    assert not woken.acquire(timeout=0.05)
    gate.set()
    assert woken.acquire(timeout=WAIT)
    assert not detokenizer.is_behind
    detokenizer.end()
    assert detokenizer.join(WAIT)
    assert told == list(range(20))
    assert not woken.acquire(timeout=0.05)


def test_what_a_hanging_thread_did_not_tell_is_ended_once_without_it(made):
    gate, inside, told = threading.Event(), threading.Event(), []
    detokenizer = made()
    stuck, behind = Output("stuck", told), Output("behind", told)

    def hang():
        inside.set()
        assert gate.wait(WAIT)
        stuck.emit(token(1))

    detokenizer.tell(stuck, hang)
    for _ in range(3):
        detokenizer.tell(behind, lambda: behind.emit(token(2)))
    detokenizer.flush()
    assert inside.wait(WAIT)
    assert not detokenizer.join(0.05)
    detokenizer.give_up(EngineStoppedError("pretended"))
    gate.set()
    assert detokenizer.join(WAIT)
    assert [name for name, event in told if isinstance(event, Failed)] == ["stuck", "behind"]
    assert len(told) == 2


def test_calls_wait_for_a_flush(made):
    detokenizer, told = made(), []
    output, done = Output("a", told), threading.Event()
    detokenizer.tell(output, lambda: output.emit(token(1)))
    time.sleep(0.05)
    assert not told
    detokenizer.tell(output, done.set)
    detokenizer.flush()
    assert done.wait(WAIT)
    assert len(told) == 1


# In an engine.


class Slow(Collector):
    """Receives nothing before `gate` is set."""

    def __init__(self):
        super().__init__()
        self.gate, self.inside = threading.Event(), threading.Event()

    def __call__(self, event):
        self.inside.set()
        assert self.gate.wait(WAIT)
        super().__call__(event)


def test_a_receiver_that_hangs_stops_steps_after_a_while_and_messages_never(
    make_engine, monkeypatch
):
    monkeypatch.setattr(Detokenizer.__init__, "__defaults__", (20,))
    engine = make_engine()
    slow = Slow()
    engine.submit(Request(request_id=slow.id, prompt_token_ids=(4, 5), sampling=LONG), slow)
    assert slow.inside.wait(WAIT)
    deadline = time.monotonic() + WAIT
    while (steps := engine.stats().steps) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert engine.stats().steps <= steps + 3 < 40
    # A message is still answered.
    engine.audit()
    assert engine.pin_adapter("r4", pinned=True).result(WAIT).pinned
    engine.pin_adapter("r4", pinned=False).result(WAIT)
    engine.cancel(slow.id)
    slow.gate.set()
    final = slow.wait()
    assert final.finish_reason == "cancelled"
    assert final.completion_tokens == len(slow.tokens)
    check_idle(engine)


def test_a_receiver_that_is_slow_gets_all_in_order(make_engine, monkeypatch):
    monkeypatch.setattr(Detokenizer.__init__, "__defaults__", (5,))
    engine = make_engine()
    want = ask(engine, max_tokens=60)
    want.wait()
    slow = Slow()
    params = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    engine.submit(Request(request_id=slow.id, prompt_token_ids=(5, 6, 7), sampling=params), slow)
    assert slow.inside.wait(WAIT)
    time.sleep(0.1)
    slow.gate.set()
    slow.wait()
    assert slow.tokens == want.tokens
    assert slow.text == want.text
    assert slow.events[-1] == Finished(
        request_id=slow.id, finish_reason="length", prompt_tokens=3, completion_tokens=60
    )
    check_idle(engine)


def test_a_receiver_may_ask_for_an_audit(make_engine):
    engine = make_engine()
    done = threading.Event()

    def on_event(event):
        if isinstance(event, Finished):
            engine.audit()
            done.set()

    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
    engine.submit(Request(request_id="audits", prompt_token_ids=(4,), sampling=params), on_event)
    assert done.wait(WAIT)
    check_idle(engine)
