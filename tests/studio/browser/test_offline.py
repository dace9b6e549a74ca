"""The way from a file to a talk on a machine that has no network but itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = ("unshare", "--net", "--map-root-user", "sh", "-ec")
TEST = Path(__file__).parent / "test_critical_path.py"
UP = "ip link set lo up; test $(ip -o link | wc -l) = 1"


@pytest.mark.slow
def test_the_page_needs_no_network():
    if not (shutil.which("unshare") and shutil.which("ip")):
        pytest.skip("unshare and ip are not installed")
    if subprocess.run([*ALONE, UP], capture_output=True).returncode:
        pytest.skip("no network of its own can be made here")
    test = f"{TEST}::test_from_a_file_to_a_talk"
    done = subprocess.run(
        [*ALONE, f'{UP}; exec "{sys.executable}" -m pytest -q -n0 "{test}"'],
        capture_output=True,
        text=True,
        env={**os.environ, "CI": "true"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
