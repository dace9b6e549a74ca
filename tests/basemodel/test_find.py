import sys
from pathlib import Path

import httpx
import pytest
from huggingface_hub import errors as hub

from gossamer.basemodel.cache import cache_home
from gossamer.basemodel.find import resolve
from gossamer.basemodel.support import default_dtype
from gossamer.errors import DownloadError, ModelNotFoundError, UsageError


def test_a_local_folder(tiny_model, monkeypatch):
    assert resolve(tiny_model) == tiny_model
    monkeypatch.chdir(tiny_model.parent)
    assert resolve(f"./{tiny_model.name}") == tiny_model


def test_a_name_that_is_nothing_names_the_nearest():
    with pytest.raises(ModelNotFoundError, match="did you mean 'smollm2-135m'"):
        resolve("smollm2-135")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "~nobody/x"])
def test_a_folder_that_does_not_exist(name):
    with pytest.raises(ModelNotFoundError, match="no model folder"):
        resolve(name)


def test_a_file_is_no_model(tiny_model):
    with pytest.raises(ModelNotFoundError, match="is a file"):
        resolve(tiny_model / "config.json")


def test_only_hub_models_have_revisions(tiny_model):
    with pytest.raises(UsageError, match="no revisions"):
        resolve(tiny_model, revision="main")


def test_an_uncached_hub_model_without_network():
    with pytest.raises(DownloadError, match=r"'owner/name' .*not cached.*HF_HUB_OFFLINE"):
        resolve("owner/name")


def response(code):
    return httpx.Response(code, request=httpx.Request("GET", "https://hub.invalid"))


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (hub.RepositoryNotFoundError("x", response=response(404)), ModelNotFoundError, "neither"),
        (hub.RevisionNotFoundError("x", response=response(404)), ModelNotFoundError, "'v9'"),
        (hub.GatedRepoError("x", response=response(403)), DownloadError, "HF_TOKEN"),
        (hub.HfHubHTTPError("server said no", response=response(500)), DownloadError, "said no"),
        (OSError(28, "No space left on device"), DownloadError, "No space left"),
    ],
)
def test_what_goes_wrong_at_the_hub_is_said(monkeypatch, error, expected, said):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(expected, match=said):
        resolve("owner/name", revision="v9")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("GOSSAMER_HOME", str(tmp_path / "mine"))
    assert cache_home() == tmp_path / "mine"
    monkeypatch.setenv("GOSSAMER_HOME", "")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_home() == tmp_path / "xdg" / "gossamer"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/ignored")
    assert cache_home() == tmp_path / ".cache" / "gossamer"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_home() == tmp_path / "Library" / "Caches" / "gossamer"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    assert cache_home() == tmp_path / "Local" / "gossamer"


@pytest.mark.parametrize("units", [True, False])
def test_number_format_follows_the_processor(monkeypatch, units):
    import torch

    monkeypatch.setattr("gossamer.basemodel.support.cpu_has_bf16_units", lambda: units)
    assert default_dtype("cpu") == (torch.bfloat16 if units else torch.float32)
    assert default_dtype("meta") == torch.float32
