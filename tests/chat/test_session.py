"""A chat with a real server over an engine that answers from a script."""

import os
import signal
import threading
from functools import partial

import pytest
from fake_engine import FakeEngine, endless
from live_server import live

from gossamer.chat.ask import STOPPED, ask_all
from gossamer.chat.commands import Commands
from gossamer.chat.history import ChatHistory, ChatSettings
from gossamer.chat.session import Session, read_message
from gossamer.errors import OverloadedError
from gossamer.serving.client.address import served_models
from gossamer.serving.core.stats import AdapterStatus

from tiny import tiny_tokenizer

PIRATE = AdapterStatus(name="pirate", state="registered")


class Recorder:
    """A screen that remembers."""

    def __init__(self):
        self.pieces, self.ended = [], []

    def begin(self, models):
        self.pieces.append(dict.fromkeys(models, ""))

    def tell(self, model, piece):
        self.pieces[-1][model] += piece

    def end(self, replies):
        self.ended.append(dict(replies))


@pytest.fixture
def chat():
    """Sessions with servers of their own: `chat(models, script=...)` gives session and screen."""
    open_servers = []

    def start(models, **options):
        engine = FakeEngine(tiny_tokenizer(), adapters=(PIRATE,), **options)
        server = live(engine)
        host, port = server.__enter__()
        open_servers.append((server, engine))
        url = f"http://{host}:{port}"
        conversation = ChatHistory(models, ChatSettings(seed=3))
        screen = Recorder()
        commands = Commands(conversation, partial(served_models, url, None))
        session = Session(conversation, partial(ask_all, url, None), screen, commands)
        return session, screen, conversation

    yield start
    for server, engine in open_servers:
        server.__exit__(None, None, None)
        engine.shutdown()


def reader(*lines):
    left = list(lines)

    def read(prompt):
        if not left:
            raise EOFError
        return left.pop(0)

    return read


def test_all_models_answer_and_the_conversation_goes_on(chat):
    session, screen, conversation = chat(["tiny", "pirate"])
    told = []
    session.talk(reader("Hi", "/models", "", "And?", "/quit", "never"), told.append)
    assert screen.pieces[0] == {"tiny": "I am base 3", "pirate": "I am pirate 3"}
    assert [turn.question for turn in conversation.turns] == ["Hi", "And?"]
    assert told == ["* tiny\n* pirate"]
    reply = screen.ended[1]["pirate"]
    assert (reply.tokens, reply.finish_reason, reply.problem) == (4, "stop", None)
    assert 0 <= reply.first <= reply.seconds


def test_what_one_model_cannot_is_told_and_the_others_answer(chat):
    session, screen, conversation = chat(["tiny", "nobody"])
    assert not session.ask("Hi")
    assert "nobody" in screen.ended[0]["nobody"].problem
    assert conversation.turns[0].replies == {"tiny": "I am base 3"}


def test_a_reply_that_breaks_off_is_shown_and_not_kept(chat):
    session, screen, conversation = chat(
        ["tiny"], script=lambda request: ["I ", OverloadedError("no room left", retry_after=1)]
    )
    assert not session.ask("Hi")
    assert screen.ended[0]["tiny"].text == "I "
    assert "no room left" in screen.ended[0]["tiny"].problem
    assert not conversation.turns


@pytest.fixture
def heard():
    """A shell has Ctrl-C ignored by what it runs in the background, the tests perhaps among it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_stops_the_replies_and_keeps_what_was_said(chat):
    session, screen, conversation = chat(["tiny", "pirate"], script=endless, delay=0.001)
    screen.tell = partial(press_ctrl_c_after, screen, 30)
    session.ask("Hi")
    for reply in screen.ended[0].values():
        assert reply.problem == STOPPED
    assert set(conversation.turns[0].replies["tiny"]) == {"x"}
    session.talk(reader("/undo"), lambda text: None)
    assert not conversation.turns


def press_ctrl_c_after(screen, count, model, piece):
    # A piece may be of several characters, so the count may be stepped over.
    before = sum(map(len, screen.pieces[-1].values()))
    Recorder.tell(screen, model, piece)
    if before < count <= before + len(piece):
        assert threading.current_thread() is threading.main_thread()
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_gives_up_a_line_and_ctrl_d_ends(chat):
    session, screen, _ = chat(["tiny"])
    calls = iter([KeyboardInterrupt, "Hi", EOFError])

    def read(prompt):
        call = next(calls)
        if isinstance(call, str):
            return call
        raise call

    session.talk(read, lambda text: None)
    assert len(screen.ended) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (['"""', "one", "", "two", '"""'], "one\n\ntwo"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""one"""'], "one"),
    ],
)
def test_messages_of_several_lines(lines, message):
    assert read_message(reader(*lines)) == message
