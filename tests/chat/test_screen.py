import io

import pytest
from rich.console import Console

from gossamer.chat.ask import STOPPED
from gossamer.chat.screen import PlainScreen, TerminalScreen, figures, printable
from gossamer.serving.client.chat_stream import Reply


def done(text, **more):
    return Reply(text=text, finish_reason="stop", tokens=11, first=0.5, seconds=1.5, **more)


def shown(width, replies, pieces=True):
    """What a terminal of that width has been sent."""
    output = io.StringIO()
    screen = TerminalScreen(Console(file=output, width=width, height=20, force_terminal=True))
    screen.begin(list(replies))
    if pieces:
        for model, reply in replies.items():
            for piece in reply.text.split(" "):
                screen.tell(model, piece + " ")
    screen.end(replies)
    return output.getvalue()


def test_what_would_command_a_terminal_is_taken_out():
    assert printable("a\x1b[2Jb\x9b1mc\rd\x07\n\te\u00e9\U0001f600") == (
        "a\ufffd[2Jb\ufffd1mc\ufffdd\ufffd\n\te\u00e9\U0001f600"
    )


@pytest.mark.parametrize("width", [40, 100])
def test_no_reply_reaches_the_terminal_raw(width):
    evil = done("see \x1b]0;title\x07 this [red]and[/red] that")
    for replies in ({"a": evil}, {"a": evil, "b": done("no")}):
        text = shown(width, replies)
        assert "\x1b]0" not in text
        assert "[red]and[/red]" in text, "markup of a reply stays text"


def test_replies_stand_side_by_side_where_there_is_room():
    replies = {"base": done("Hello there"), "pirate": done("Arr matey")}
    wide = shown(100, replies).splitlines()
    assert any("Hello there" in line and "Arr matey" in line for line in wide)
    narrow = shown(40, replies).splitlines()
    assert not any("Hello there" in line and "Arr matey" in line for line in narrow)
    assert any("Hello there" in line for line in narrow)
    assert any("Arr matey" in line for line in narrow)


def test_while_a_long_reply_comes_its_end_is_shown():
    output = io.StringIO()
    console = Console(file=output, width=100, height=12, force_terminal=True)
    screen = TerminalScreen(console)
    screen.begin(["a", "b"])
    screen.tell("a", "\n".join(f"line-{n}" for n in range(50)))
    lines = screen._last_lines()["a"].splitlines()
    assert lines == [f"line-{n}" for n in range(42, 50)]
    screen.end({"a": done("x"), "b": done("y")})


def test_figures_say_what_a_reply_took_and_what_ended_it():
    assert figures(done("x")) == "0.5 s to the first word · 10 tokens/s · 11 tokens"
    assert figures(Reply(problem=STOPPED)) == "stopped"
    cut = Reply(text="x", finish_reason="length", tokens=1, first=0.1, seconds=0.1)
    assert figures(cut) == "0.1 s to the first word · 1 token · cut at max_tokens"


def test_a_program_reads_the_reply_and_nothing_else(capsys):
    screen = PlainScreen()
    screen.begin(["a"])
    screen.tell("a", "Hel")
    screen.tell("a", "lo")
    screen.end({"a": done("Hello")})
    assert capsys.readouterr() == ("Hello\n", "")
    screen.begin(["a", "b"])
    screen.tell("a", "Hel")
    screen.end({"a": done("Hello"), "b": Reply(problem="no such model")})
    assert capsys.readouterr() == (
        "a:\nHello\n\nb:\n\n\n",
        "gossamer: b: no such model\n",
    )
