"""Forms that take for ever to compile, or crash what compiles them, harm nobody."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from gossamer.errors import EngineStoppedError, RequestError, ServingError
from gossamer.serving.core.messages import StructuredOutputs
from gossamer.serving.structured import grammars as compiled_grammars
from gossamer.serving.structured import trials
from gossamer.serving.structured.bounds import FormError
from gossamer.serving.structured.grammars import Grammars
from gossamer.serving.structured.trials import FormTrials

from tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MULTIPLES = {"allOf": [{"type": "integer", "multipleOf": n} for n in (97, 89, 83, 79)]}
DOUBLED = {"d0": {"properties": {"a": {"type": "string", "pattern": "^a.{9}$"}}}}
for _n in range(1, 30):
    DOUBLED[f"d{_n}"] = {"allOf": [{"$ref": f"#/$defs/d{_n - 1}"}] * 2}
ENDLESS = [MULTIPLES, {"$defs": DOUBLED, "$ref": "#/$defs/d29"}]
DATE = StructuredOutputs(regex=r"\d{4}-\d\d")


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def quick(monkeypatch):
    """Grammars with little patience."""
    monkeypatch.setattr(compiled_grammars, "COMPILE_SECONDS", 1.0)
    grammars = Grammars(TOKENIZER, [TOKENIZER.eos_token_id], len(TOKENIZER))
    yield grammars
    grammars.close()


@pytest.fixture
def patient():
    grammars = Grammars(TOKENIZER, [TOKENIZER.eos_token_id], len(TOKENIZER))
    yield grammars
    grammars.close()


@pytest.mark.parametrize("schema", ENDLESS)
def test_what_takes_for_ever_is_given_up_and_nothing_goes_on(quick, schema):
    with pytest.raises(RequestError, match="takes more than 1 seconds to compile; make it simpler"):
        quick.matcher(StructuredOutputs(json=schema))
    assert quick._trials.pids == []
    assert not [t for t in threading.enumerate() if t.name == "gossamer-grammars" and _busy(t)]
    quick._trials._seconds = 60.0  # a machine may be busy
    quick.matcher(DATE)
    stats = quick.stats()
    assert (stats.asked, stats.refused, stats.kept) == (2, 1, 1)


def _busy(thread):
    frames = sys._current_frames().get(thread.ident)
    while frames is not None:
        if frames.f_code.co_name == "compile_form":
            return True
        frames = frames.f_back
    return False


def test_one_process_is_kept_and_ends_with_the_grammars(patient):
    for regex in ("a+", "b+", "c+"):
        patient.matcher(StructuredOutputs(regex=regex))
    [pid] = patient._trials.pids
    assert is_running(pid)
    patient.close()
    assert not is_running(pid)


def test_choices_need_no_process(quick):
    quick.matcher(StructuredOutputs(choice=["yes", "no"]))
    assert quick._trials.pids == []


def test_what_crashes_the_compiler_is_refused(monkeypatch):
    code = "import sys, os; sys.stdin.readline(); sys.stdin.readline(); os.abort()"
    monkeypatch.setattr(trials, "COMMAND", (sys.executable, "-c", code))
    tried = FormTrials(list, 30.0)
    with pytest.raises(FormError, match="more memory than is allowed"):
        tried.check("regex", "a")
    assert tried.pids == []
    tried.close()


def test_a_process_that_cannot_run_is_no_fault_of_a_form(monkeypatch):
    monkeypatch.setattr(trials, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    tried = FormTrials(list, 30.0)
    with pytest.raises(ServingError, match="has ended with status 3"):
        tried.check("regex", "a")
    tried.close()


def test_special_tokens_may_be_named_and_others_not():
    tried = FormTrials(lambda: ["<|im_start|>"], 30.0)
    tried.check("grammar", 'start: <|im_start|> "a"')
    with pytest.raises(FormError):
        tried.check("grammar", 'start: <|no_such|> "a"')
    tried.close()


def test_closing_ends_what_is_being_tried():
    tried = FormTrials(list, 60.0)
    failed = []

    def check():
        with pytest.raises(EngineStoppedError):
            tried.check("json", json.dumps(MULTIPLES))
        failed.append(True)

    thread = threading.Thread(target=check)
    thread.start()
    while not tried.pids:
        time.sleep(0.01)
    tried.close()
    thread.join(30)
    assert failed == [True]
    with pytest.raises(EngineStoppedError):
        tried.check("regex", "a")


def test_the_process_ends_with_its_input_and_imports_little():
    module = "gossamer.serving.structured.trial_process"
    form = json.dumps({"kind": "regex", "text": "a("})
    run = [sys.executable, "-X", "importtime", "-m", module]
    done = subprocess.run(run, input=f"[]\n{form}\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert isinstance(json.loads(done.stdout), str)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert loaded.isdisjoint({"torch", "numpy", "transformers", "pydantic"})
