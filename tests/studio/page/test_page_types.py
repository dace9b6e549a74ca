"""The types of the page's modules, which TypeScript's compiler checks where npm is."""

import importlib.util
import shutil

import pytest
from house import ROOT


@pytest.fixture
def page_types():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("page_types", ROOT / "scripts" / "page_types.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_said_of_the_vendored_libraries_is_left_out(page_types):
    said = ["vendor/a.js(1,1): error", "  more of it", "js/b.js(1,2): error", "  more of that"]
    assert page_types.of_ours(said) == said[2:]
    assert page_types.of_ours(["error TS5083: Cannot read file"])


def test_where_there_is_no_npm_nothing_is_checked_and_it_is_said(page_types, monkeypatch, capsys):
    monkeypatch.setattr(page_types.shutil, "which", lambda name: None)
    assert page_types.main() == 0
    assert "not checked: npm is not installed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_modules_have_no_wrong_type_and_one_would_be_seen(page_types, tmp_path, capsys):
    assert page_types.main() == 0
    if not page_types.PROGRAM.is_file():
        pytest.skip("npm reaches no registry")
    assert capsys.readouterr().out == ""
    page = tmp_path / "page"
    shutil.copytree(page_types.PAGE, page)
    (page / "js" / "wrong.js").write_text(
        'import { bytes } from "./format.js";\nbytes(1).nothing();\n'
    )
    page_types.PAGE = page
    assert page_types.main() == 1
    assert "js/wrong.js(2,10): error TS2339" in capsys.readouterr().out
