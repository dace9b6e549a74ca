"""`gossamer jobs db`: tables checked and brought up to date without a server."""

import sqlite3

import pytest
from commands.output import one_line

from gossamer.cli.main import main
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore


@pytest.fixture
def folder(tmp_path):
    """A data folder whose tables are those of this version."""
    settings = JobsSettings(data_dir=str(tmp_path / "data"))
    JobStore.open(settings).close()
    return settings.folder


def run(step, folder):
    return main(["jobs", "db", step, "--data-dir", str(folder.root)])


def change(folder, statement):
    with sqlite3.connect(folder.database) as base:
        base.execute(statement)


def test_tables_of_this_version_are_well(folder, capsys):
    assert run("check", folder) == 0
    assert "as this version makes it" in capsys.readouterr().out
    assert run("upgrade", folder) == 0
    assert capsys.readouterr().out.startswith("revision 0")


def test_tables_that_lack_something_are_told(folder, capsys):
    change(folder, "ALTER TABLE jobs DROP COLUMN reason")
    assert run("check", folder) == 1
    told = capsys.readouterr().out
    assert "differs from revision" in told
    assert "reason" in told


def test_tables_of_a_newer_version_are_not_touched(folder, capsys):
    change(folder, "UPDATE alembic_version SET version_num = '9999'")
    assert run("check", folder) == 1
    assert "the tables have revision 9999, this version makes 0" in capsys.readouterr().out
    assert run("upgrade", folder) == 1
    assert "revision 9999, which this version of Gossamer does not know" in one_line(capsys)


def test_a_folder_without_tables_stays_as_it_is(tmp_path, capsys):
    assert main(["jobs", "db", "upgrade", "--data-dir", str(tmp_path / "none")]) == 1
    assert "a server with --jobs makes them when it starts" in one_line(capsys)
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_no_database_is_told_in_one_line(folder, capsys):
    folder.database.write_bytes(b"no database" * 100)
    assert run("check", folder) == 1
    assert "file is not a database" in one_line(capsys)
