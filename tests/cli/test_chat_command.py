import io

import pytest
from fake_engine import FakeEngine
from live_server import live

from gossamer.cli.main import main
from gossamer.serving.core.stats import AdapterStatus

from tiny import make_lora, tiny_tokenizer


@pytest.fixture
def url():
    engine = FakeEngine(
        tiny_tokenizer(), adapters=(AdapterStatus(name="pirate", state="registered"),)
    )
    with live(engine) as (host, port):
        yield f"http://{host}:{port}"
    engine.shutdown()


@pytest.fixture
def say(monkeypatch):
    def set_input(text):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    return set_input


def test_one_message_of_a_program_and_nothing_but_the_reply(url, say, capsys):
    say("Hi\nthere\n")
    assert main(["chat", "--url", url, "pirate", "--seed", "3"]) == 0
    assert capsys.readouterr() == ("I am pirate 3\n", "")


def test_without_names_the_first_models_of_the_server_are_asked(url, say, capsys):
    say("Hi")
    assert main(["chat", "--url", url, "--seed", "3"]) == 0
    assert capsys.readouterr().out == "tiny:\nI am base 3\n\npirate:\nI am pirate 3\n\n"


def test_a_reply_that_fails_is_the_exit_code(url, say, capsys):
    say("x" * 2000)
    assert main(["chat", "--url", url, "tiny"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("gossamer: tiny: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "{url}", "nobody"], "the server does not list nobody; it has tiny, pirate"),
        (["--url", "{url}", "--dtype", "float32"], "--dtype is for a server of the chat's own"),
        (["--url", "http://127.0.0.1:9", "tiny"], "does not list its models"),
        (["--url", "{url}", "--temperature", "9"], "--temperature"),
        (["no/such/model", "nor/that"], "two base models"),
    ],
)
def test_mistakes_are_one_line(url, say, capsys, arguments, message):
    say("Hi")
    assert main(["chat", *(word.format(url=url) for word in arguments)]) != 0
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1


def test_an_empty_message_is_refused(url, say, capsys):
    say(" \n")
    assert main(["chat", "--url", url, "tiny"]) == 2
    assert "no message" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_of_its_own_for_base_and_adapter(tiny_model, tmp_path, say, capfd):
    make_lora(tmp_path / "mine", tiny_model, rank=4)
    say("Hi")
    models = [str(tiny_model), str(tmp_path / "mine")]
    options = ["--max-tokens", "4", "--temperature", "0", "--memory", "0.1"]
    assert main(["chat", *models, *options]) == 0
    out = capfd.readouterr().out
    assert out.startswith(f"{tiny_model.name}:\n")
    assert "\nmine:\n" in out
