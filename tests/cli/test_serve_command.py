"""`gossamer serve`: mistakes are told before anything heavy is done; then one whole process."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from commands.output import one_line

from gossamer.cli.main import main

from tiny import make_lora


@pytest.fixture
def no_engine(monkeypatch):
    """Fail the test if a model is loaded."""

    def build_engine(settings):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("gossamer.serving.engine.build.build_engine", build_engine)


@pytest.mark.usefixtures("no_engine")
def test_busy_port_is_told_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["serve", "--model", "whatever", "--port", port]) == 1
    assert f"port {port} on 127.0.0.1 is in use" in one_line(capsys)


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--port", "70000"], "--port = 70000"),
        (["--memory", "-1"], "--memory = -1.0"),
        (["--max-running", "0"], "--max-running = 0"),
        (["--api-key", " "], "API key"),
        (["--max-body-mib", "0"], "--max-body-mib = 0.0"),
        (["--max-header-mib", "101"], "--max-header-mib = 101.0"),
    ],
)
def test_impossible_option(capsys, options, part):
    assert main(["serve", "--model", "whatever", *options]) == 2
    assert part in one_line(capsys)


@pytest.mark.usefixtures("no_engine")
def test_unknown_host(capsys):
    assert main(["serve", "--model", "x", "--host", "no.such.host.invalid", "--port", "0"]) == 1
    assert "no.such.host.invalid" in one_line(capsys)


def test_model_that_does_not_exist(capsys, tmp_path):
    assert main(["serve", "--model", str(tmp_path / "nowhere"), "--port", "0"]) == 1
    assert "nowhere" in one_line(capsys)


def test_adapter_folder_that_does_not_exist(capsys, tmp_path, tiny_model):
    options = ["--model", str(tiny_model), "--adapters", str(tmp_path / "none"), "--port", "0"]
    assert main(["serve", *options]) == 1
    assert "none" in one_line(capsys)


def test_keys_come_from_options_or_the_environment(monkeypatch):
    import argparse

    from gossamer.cli import serve

    def keys(*options):
        parser = argparse.ArgumentParser()
        serve.add_arguments(parser)
        args = parser.parse_args(["--model", "x", *options])
        return serve.HTTP.read(args, **serve.keys_from_environment()).api_keys

    monkeypatch.delenv("GOSSAMER_API_KEY", raising=False)
    assert keys() == ()
    monkeypatch.setenv("GOSSAMER_API_KEY", "one, two")
    assert keys() == ("one", "two")
    assert keys("--api-key", "three", "--api-key", "four") == ("three", "four")


def test_the_model_may_be_a_plain_word_but_only_one(capsys):
    assert main(["serve", "--port", "0"]) == 2
    assert "--model NAME is required, or NAME alone" in one_line(capsys)
    assert main(["serve", "one", "--model", "two", "--port", "0"]) == 2
    assert "'one' and --model two: which of the two?" in one_line(capsys)
    assert main(["serve", "one", "--port", "0"]) == 1
    assert "unknown model 'one'" in one_line(capsys)


def test_many_adapters_are_counted_and_some_named(capsys):
    from types import SimpleNamespace

    from gossamer.cli import serve

    def engine(count):
        states = [SimpleNamespace(name=f"a{n}", state="known") for n in range(count)]
        broken = SimpleNamespace(name="broken", state="refused")
        return SimpleNamespace(model_name="base", adapters=lambda: [*states, broken])

    serve._announce("http://x:1", engine(10), 1.5, needs_key=False)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "gossamer: ready at http://x:1 with base and 10 adapters after 1.5 s"
    assert shown[1] == "gossamer: models: base, a0, a1, a2, a3, a4, a5, a6, a7 and 2 more"
    assert "Authorization" not in shown[2]
    serve._announce("http://x:1", engine(0), 1.5, needs_key=False)
    shown = capsys.readouterr().out.splitlines()
    assert shown[1] == "gossamer: models: base"
    assert '"model": "base"' in shown[2]


def test_help_shows_every_setting_without_loading_torch():
    code = (
        "import sys; from gossamer.cli.main import main\n"
        "try: main(['serve', '--help'])\n"
        "finally: assert not {'torch', 'transformers', 'fastapi'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for option in ("--model", "--adapters", "--memory", "--port", "--api-key", "--drain-seconds"):
        assert option in result.stdout


def fetch(url, body=None, key="secret"):
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)


COMPILING = "gossamer: compiling kernels for this processor; done once, half a minute or so\n"


def check_command(line, url, model):
    """The command that the server tells one to try is whole, and what a shell makes of it right."""
    words = shlex.split(line.removeprefix("gossamer: try: "))
    assert words[:2] == ["curl", f"{url}/v1/chat/completions"]
    assert words[2:4] == ["-H", "Content-Type: application/json"]
    assert words[4:6] == ["-H", "Authorization: Bearer $GOSSAMER_API_KEY"]
    assert json.loads(words[7])["model"] == model


def test_a_server_from_start_to_end(tiny_model, tmp_path):
    make_lora(tmp_path / "pirate", tiny_model, rank=4)
    command = [sys.executable, "-m", "gossamer.cli.main", "serve", "--model", str(tiny_model)]
    process = subprocess.Popen(
        [*command, "--adapters", str(tmp_path), "--port", "0", "--memory", "0.02"],
        env={**os.environ, "GOSSAMER_API_KEY": "secret"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ready = process.stdout.readline()
        assert ready.startswith("gossamer: ready at http://127.0.0.1:")
        assert " and 1 adapter after " in ready
        url = ready.split()[3]
        base = tiny_model.name
        assert process.stdout.readline() == f"gossamer: models: {base}, pirate\n"
        check_command(process.stdout.readline(), url, "pirate")
        names = [model["id"] for model in fetch(f"{url}/v1/models")["data"]]
        assert names == [base, "pirate"]
        body = {"prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        texts = [
            fetch(f"{url}/v1/completions", {**body, "model": name})["choices"][0]["text"]
            for name in (base, "pirate", base)
        ]
        assert texts[0] == texts[2] != texts[1]
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetch(f"{url}/v1/models", key="wrong")
        assert refused.value.code == 401
        refused.value.close()
        process.send_signal(signal.SIGTERM)
        # No deadline: how long a busy machine takes says nothing about the server.
        out, err = process.communicate()
        # Kernels that the other tests have not used yet may have to be compiled, which is told.
        assert (process.returncode, out, err.replace(COMPILING, "")) == (0, "", "")
    finally:
        process.kill()
        process.communicate()
