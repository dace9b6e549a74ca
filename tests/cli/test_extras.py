"""Commands on the base install: what serves runs, what tunes says what to install."""

import subprocess
import sys

import pytest

from gossamer.extras import EXTRAS

WITHOUT = f"""
import sys
for name in {EXTRAS["tune"]}: sys.modules[name] = None
from gossamer.cli.main import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""
NEEDS = {
    "tune": ["tune", "smollm2-135m", "--data", "x.jsonl", "--output", "out"],
    "compare": [
        *("compare", "--model", "m", "--data", "x", "--eval", "y"),
        *("--methods", "lora", "--output", "out"),
    ],
    "sparsity plan": ["sparsity", "plan", "--model", "m", "--data", "x", "--output", "p.yaml"],
}
BASE = [
    ["tune", "--help"],
    ["tune", "--help-method", "smt"],
    ["compare", "--help"],
    ["sparsity", "list"],
    ["sparsity", "show", "llama2-7b-csr"],
    ["serve", "--help"],
    ["model", "list"],
    ["keys", "--help"],
    ["completion", "bash"],
    ["version"],
]


def without_extras(words, code=WITHOUT):
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


@pytest.mark.parametrize("command", NEEDS)
def test_a_command_that_lacks_its_packages_says_in_one_line_what_to_install(command):
    done = without_extras(NEEDS[command])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"gossamer: error: {command} needs accelerate, datasets, matplotlib, peft, trl; "
        "in the clone of Gossamer: pip install -e '.[tune]'\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "smollm2-135m", "--output", "plan.png"],
        ["bench", "serve", "--url", "http://127.0.0.1:9", "--output", "load"],
    ],
)
def test_pictures_say_what_they_need_before_any_work(words):
    done = without_extras(words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "gossamer: error: --output needs matplotlib; "
        "in the clone of Gossamer: pip install -e '.[plot]'\n"
    )


@pytest.mark.parametrize("words", BASE, ids=" ".join)
def test_everything_else_does_without_them(words):
    done = without_extras(words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("name", ["tune", "compare"])
def test_the_same_from_python_says_what_to_install(name):
    code = WITHOUT.split("from gossamer")[0] + f"import gossamer; gossamer.{name}"
    done = without_extras([], code)
    assert "MissingExtraError" in done.stderr
    assert f"gossamer.{name} needs accelerate" in done.stderr
    assert "pip install -e '.[tune]'" in done.stderr


def test_serving_from_python_needs_none_of_them():
    code = WITHOUT.split("from gossamer")[0] + "from gossamer import LLM, SamplingParams"
    done = without_extras([], code)
    assert done.returncode == 0, done.stderr
