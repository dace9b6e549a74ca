"""What is loaded when, measured in processes of their own."""

import subprocess
import sys
import time

import pytest
from house import sources


@pytest.mark.parametrize(
    "statement",
    ["import gossamer", "from gossamer.cli.main import main; main(['--help'])"],
    ids=["import", "help"],
)
def test_nothing_heavy_is_loaded(statement, capsys):
    heavy = ("torch", "transformers", "pydantic", "numpy", "peft", "fastapi", "yaml")
    show = f"print(*[m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    code = f"{statement}\nimport sys\n{show}"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with capsys.disabled():
        print(f"\n  {statement}: {time.perf_counter() - start:.2f} s")
    assert done.stderr.strip() == ""


def test_serving_runs_without_the_training_packages():
    serving = [s for s in sources() if s.room == "serving" and "triton" not in s.path.name]
    code = (
        "import sys, importlib\n"
        "for name in ('peft', 'trl', 'datasets', 'accelerate'): sys.modules[name] = None\n"
        f"for name in {[s.module for s in serving]}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
