"""Third-party modules of the page are the pinned ones, to the byte."""

import importlib.util
import io
import json
import tarfile

import pytest
from house import ROOT


@pytest.fixture
def vendor(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("vendor", ROOT / "scripts" / "vendor.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_vendored_files_are_those_of_the_lock(vendor):
    lock = json.loads(vendor.LOCK.read_text())
    assert vendor.differences(lock) == []
    for package in lock["packages"].values():
        assert package["integrity"].startswith("sha512-")
        assert any(name.endswith(".LICENSE") for name in package["files"].values())


def test_a_changed_a_missing_and_a_foreign_file_are_found(vendor, tmp_path, monkeypatch):
    for name, text in {"same.js": "1", "changed.js": "2", "foreign.js": "3"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(vendor, "VENDOR", tmp_path)
    lock = {"files": {name: vendor.sha256(b"1") for name in ("same.js", "changed.js", "gone.js")}}
    assert vendor.differences(lock) == [
        "changed.js was changed",
        "foreign.js is in no package of the lock",
        "gone.js is missing",
    ]


def test_bare_imports_become_files_and_maps_go(vendor):
    code = 'import{h}from"preact";import "preact/hooks";\n//# sourceMappingURL=x.map\nconst a=1;'
    wanted = 'import{h}from"./preact.js";import "./hooks.js";\nconst a=1;'
    assert vendor.localized(code, "x.js") == wanted
    with pytest.raises(SystemExit, match="names no file"):
        vendor.localized('import a from"left-pad"', "x.js")


def test_a_tarball_that_is_not_the_pinned_one_is_refused(vendor, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/a.js")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"1"))
    monkeypatch.setattr(
        vendor.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(packed.getvalue())
    )
    pinned = {"version": "1.0.0", "integrity": "sha512-other", "files": {}}
    with pytest.raises(SystemExit, match="is not the pinned sha512-other"):
        vendor.fetch("thing", pinned, "https://registry.example")
    assert vendor.unpack(packed.getvalue()) == {"package/a.js": b"1"}
