"""The journeys of the architecture page: every function exists, is called, and there are few."""

import inspect
import json
import re
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import CodeType

import httpx
import pytest
from engine_case import start
from house import PACKAGE, ROOT
from live_server import live
from runs import write_rows

from gossamer.cli.main import main

from tiny import make_lora

PAGE = ROOT / "docs" / "architecture.md"
# The heading of each journey, and how many functions and files a reader may have to enter.
BOUNDS = {
    "A chat request, to its last event": (44, 28),
    "An adapter folder, to its kernel": (26, 16),
    "`gossamer tune --method smt`, to a saved adapter": (27, 20),
}


def section_of(heading: str) -> str:
    _, found, rest = PAGE.read_text("utf-8").partition(f"### {heading}\n")
    assert found, f"the page has no journey '{heading}'"
    return re.split(r"^##", rest, maxsplit=1, flags=re.M)[0]


def steps_of(heading: str) -> list[str]:
    """The functions of a journey, each as `module.path:Qualified.name` below `gossamer`."""
    block = re.search(r"```\n(.*?)```", section_of(heading), re.S)
    assert block
    return [line.split()[0] for line in block[1].splitlines() if line.strip()]


def code_of(step: str) -> CodeType | None:
    """What Python runs for a step; none for kernels, which the tests replace by the reference."""
    module, _, name = step.partition(":")
    found = import_module(f"gossamer.{module}")
    for part in name.split("."):
        found = inspect.getattr_static(found, part, None)
        assert found is not None, f"{step} has gone"
    if module.endswith(".cpu"):
        return None
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    return inspect.unwrap(found).__code__


@pytest.fixture
def entered():
    """`entered(call)`: what of the package was entered while `call` ran, in any thread."""
    seen: set[CodeType] = set()
    root = str(PACKAGE)

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(root):
            seen.add(frame.f_code)

    def run(call):
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            call()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        return seen

    return run


@pytest.mark.parametrize("heading", BOUNDS)
def test_the_functions_of_a_journey_exist_and_are_few(heading):
    steps = steps_of(heading)
    assert len(set(steps)) == len(steps)
    for step in steps:
        code_of(step)
    most_functions, most_files = BOUNDS[heading]
    files = {import_module(f"gossamer.{step.partition(':')[0]}").__file__ for step in steps}
    assert len(steps) <= most_functions
    assert len(files) <= most_files
    assert f"{len(steps)} functions in {len(files)} files" in section_of(heading)


def check(heading, seen):
    missed = [step for step in steps_of(heading) if code_of(step) not in {None, *seen}]
    assert not missed, f"not entered on the way: {missed}"


def test_a_chat_request_and_an_adapter_enter_the_functions_of_their_journeys(
    entered, tiny_model, tmp_path
):
    make_lora(tmp_path / "adapters" / "poet", tiny_model, rank=4)
    message = {"role": "user", "content": "hello"}
    body = {"model": "poet", "messages": [message], "max_tokens": 3, "stream": True}

    def chat():
        # Compiling kernels under a profiler would take minutes.
        engine = start(tiny_model, tmp_path / "adapters", backend="reference")
        try:
            with live(engine, api_keys=("secret",)) as (host, port):
                url = f"http://{host}:{port}/v1/chat/completions"
                key = {"Authorization": "Bearer secret"}
                reply = httpx.post(url, json=body, headers=key, timeout=None)
                assert reply.text.endswith("data: [DONE]\n\n")
        finally:
            engine.shutdown()

    seen = entered(chat)
    check("A chat request, to its last event", seen)
    check("An adapter folder, to its kernel", seen)


def test_a_run_enters_the_functions_of_its_journey(entered, tiny_model, tmp_path, capsys):
    rows = write_rows(tmp_path / "rows.jsonl")
    command = ["tune", "--model", str(tiny_model), "--data", str(rows), "--method", "smt"]
    options = {"block_size": 16, "attention_ratio": 0.5, "device": "cpu"}
    # With bfloat16 the layers compute by another way.
    options["dtype"] = "float32"
    for name, value in options.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    command += ["--output", str(tmp_path / "run"), "--max-steps", "2"]

    def tune():
        assert main(command) == 0, capsys.readouterr().err

    check("`gossamer tune --method smt`, to a saved adapter", entered(tune))
    assert Path(tmp_path / "run" / "adapter_config.json").is_file()
