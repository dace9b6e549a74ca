"""The token of a Ray that is started here: what its environment says before it is loaded."""

import os
import sys
from types import ModuleType

import pytest

from gossamer.errors import SettingError
from gossamer.ray_token import require_ray_token

NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Ray is not loaded, and says nothing of tokens; what a test writes is taken back."""
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("mode", [None, "disabled"])
def test_each_process_draws_its_own(mode, monkeypatch):
    drawn = []
    for _ in range(2):
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
        if mode is not None:
            monkeypatch.setenv("RAY_AUTH_MODE", mode)
        require_ray_token()
        assert os.environ["RAY_AUTH_MODE"] == "token"
        drawn.append(os.environ["RAY_AUTH_TOKEN"])
    assert len(set(drawn)) == 2
    assert min(len(token) for token in drawn) == 64


def test_the_users_own_stays(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    require_ray_token()
    assert os.environ["RAY_AUTH_TOKEN"] == "mine"


def test_a_loaded_ray_without_it_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with pytest.raises(SettingError, match="before Ray is loaded"):
        require_ray_token()
    assert "RAY_AUTH_TOKEN" not in os.environ
