"""`gossamer keys`."""

import json

import pytest

from gossamer.cli.main import main


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / "keys.yaml")


def test_add_list_revoke(file, capsys):
    assert main(["keys", "add", "alice", "--file", file, "--share", "2", "--adapter", "a*"]) == 0
    key = capsys.readouterr().out.strip()
    assert main(["keys", "add", "bob", "--file", file, "--max-in-flight", "3"]) == 0
    capsys.readouterr()
    assert main(["keys", "list", "--file", file, "--json"]) == 0
    alice, bob = json.loads(capsys.readouterr().out)
    assert (alice["tenant"], alice["share"], alice["adapters"]) == ("alice", 2.0, ["a*"])
    assert (bob["tenant"], bob["max_in_flight"], bob["adapters"]) == ("bob", 3, [])
    assert key.startswith(f"gsm_{alice['id']}_")
    assert main(["keys", "revoke", alice["id"], "--file", file]) == 0
    capsys.readouterr()
    assert main(["keys", "list", "--file", file]) == 0
    shown = capsys.readouterr().out
    assert bob["id"] in shown
    assert alice["id"] not in shown
    assert key not in shown


def test_a_second_key_keeps_what_was_set_and_changes_what_is_given(file, capsys):
    main(["keys", "add", "alice", "--file", file, "--share", "2", "--tokens-per-minute", "100"])
    main(["keys", "add", "alice", "--file", file, "--share", "3"])
    capsys.readouterr()
    main(["keys", "list", "--file", file, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert len({row["id"] for row in rows}) == 2
    assert all((row["share"], row["tokens_per_minute"]) == (3.0, 100) for row in rows)


@pytest.mark.parametrize(
    ("options", "words", "adapters"),
    [
        ([], "tenant 'new' may use the base model only; give it adapters with --adapter", []),
        (["--adapter", "*"], "the base model and all adapters", ["*"]),
        (["--adapter", "a", "--adapter", "b-*"], "the adapters a, b-*", ["a", "b-*"]),
        (["--admin"], "and all adapters", ["*"]),
        (["--admin", "--adapter", "a"], "the adapters a", ["a"]),
    ],
)
def test_a_new_tenant_gets_what_is_said_and_no_more(file, capsys, options, words, adapters):
    assert main(["keys", "add", "new", "--file", file, *options]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert words in captured.err
    main(["keys", "list", "--file", file, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["adapters"] == adapters


def test_a_second_key_leaves_the_adapters_as_they_are(file, capsys):
    main(["keys", "add", "alice", "--file", file, "--adapter", "a*"])
    main(["keys", "add", "alice", "--file", file, "--admin"])
    assert capsys.readouterr().err.count("the adapters a*") == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["add", "two words"], "'two words' is no tenant's name"),
        (["add", "alice", "--share", "0"], "'share' = 0.0"),
        (["list"], "does not exist"),
        (["revoke", "12345678"], "does not exist"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(file, tmp_path, capsys, arguments, part):
    assert main(["keys", *arguments, "--file", file]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert part in captured.err
    assert not (tmp_path / "keys.yaml").exists()


def test_revoking_an_unknown_key_names_the_nearest(file, capsys):
    main(["keys", "add", "alice", "--file", file])
    key_id = capsys.readouterr().out.split("_")[1]
    assert main(["keys", "revoke", key_id[:-1], "--file", file]) == 2
    assert f"did you mean '{key_id}'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told(tmp_path, capsys):
    (tmp_path / "a-file").touch()
    inside = str(tmp_path / "a-file" / "keys.yaml")
    assert main(["keys", "add", "alice", "--file", inside]) == 2
    assert "cannot be written" in capsys.readouterr().err
