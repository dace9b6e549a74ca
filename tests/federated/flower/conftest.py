import pytest


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path_factory, no_pictures):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path_factory.mktemp("flwr")))
