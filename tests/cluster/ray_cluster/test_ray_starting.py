"""A cluster on Ray Serve that is told to end before it is ready."""

import httpx
import psutil
import pytest
from ray_case import PORT, START_SECONDS, RayCluster

pytest.importorskip("ray", reason="needs the packages of the extra cluster: make test-cluster")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def starting(tmp_path_factory):
    """A cluster that each test starts."""
    return RayCluster(tmp_path_factory.mktemp("starting"))


def names(process):
    return {child.name() for child in psutil.Process(process.pid).children(recursive=True)}


def proxy_answers():
    try:
        return httpx.get(f"http://127.0.0.1:{PORT}/", timeout=5).status_code > 0
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("moment", ["Ray runs", "Serve's proxy answers", "a replica answers"])
def test_a_signal_while_it_starts_ends_all_of_it(starting, moment):
    starting.begin("--replicas", "1")
    process = starting.process
    has_come = {
        "Ray runs": lambda: "raylet" in names(process),
        "Serve's proxy answers": proxy_answers,
        "a replica answers": lambda: starting.has_replicas(1),
    }
    starting.until(has_come[moment], START_SECONDS)
    left = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    starting.log.close()
    # It may have become ready in between.
    assert process.wait(300) in (128 + 15, 0)
    assert "Traceback" not in (starting.folder / "log").read_text()
    _, alive = psutil.wait_procs(left, timeout=60)
    assert alive == []
