"""Files of another project are run as they are, with stand-ins for the rest of their package."""

import sys

import pytest

from peers.stand_ins import put_in, version_of


@pytest.fixture
def package(tmp_path):
    """A package whose `__init__` would fail, and a file of it that needs modules not there."""
    folder = tmp_path / "other_server/ops"
    folder.mkdir(parents=True)
    (tmp_path / "other_server/__init__.py").write_text("raise RuntimeError\n")
    (folder / "kernel.py").write_text(
        "from other_server import settings\nfrom other_server.tools.size import double\n"
        "answer = double(settings.NUMBER)\n"
    )
    (tmp_path / "other_server-1.2.dist-info").mkdir()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_file_runs_with_stand_ins(package):
    put_in(package, ["other_server", "other_server.ops"], {
        "other_server.settings": {"NUMBER": 4},
        "other_server.tools": {},
        "other_server.tools.size": {"double": lambda number: 2 * number},
    })  # fmt: skip
    from other_server.ops import kernel

    assert kernel.answer == 8
    assert version_of(package, "other_server") == "1.2"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="other_server: unpack the wheel of other_server"):
        put_in(tmp_path, ["other_server"], {})
    assert version_of(tmp_path, "other_server") == "unknown"
