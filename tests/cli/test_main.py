"""All commands: words of other tools, slow mistakes, readers that leave, errors of disks."""

import errno
import os
import subprocess
import sys

import pytest

from gossamer.cli.completion import SHELLS, whole_parser
from gossamer.cli.main import COMMANDS, main


def err(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gossamer: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("train", "here it is: gossamer tune"),
        ("finetune", "here it is: gossamer tune"),
        ("fine_tune", "here it is: gossamer tune"),
        ("pull", "here it is: gossamer model pull NAME"),
        ("download", "here it is: gossamer model pull NAME"),
        ("list", "here it is: gossamer adapters list DIR"),
        ("run", "here it is: gossamer chat MODEL"),
        ("ask", "here it is: gossamer chat MODEL"),
        ("generate", "here it is: gossamer chat MODEL"),
        ("merge", "here it is: gossamer adapters merge"),
        ("srve", "did you mean 'serve'"),
        ("xyzzy", "known: adapters, bench,"),
    ],
)
def test_words_of_other_tools_are_understood(word, part, capsys):
    assert main([word]) == 2
    assert part in err(capsys)


def test_help_and_version_are_commands_too(capsys):
    assert main(["help"]) == main(["--help"]) == main([]) == 0
    texts = capsys.readouterr().out.split("usage: ")[1:]
    assert texts[0] == texts[1] == texts[2]
    assert main(["version"]) == main(["--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    with pytest.raises(SystemExit):
        main(["help", "keys"])
    assert capsys.readouterr().out.startswith("usage: gossamer keys")


def test_what_users_send_is_cut_in_messages(capsys):
    assert main(["x" * 100_000]) == 2
    assert len(err(capsys)) < 1000
    assert main(["serve", "y" * 100_000, "--port", "0"]) == 1
    assert len(err(capsys)) < 1000
    assert main(["serve", "m", "--max-context", "-1" + "0" * 4000]) == 2
    assert len(err(capsys)) < 1000


MISTAKES = """
import sys
from gossamer.cli.main import main
for words in (
    [], ["tune"], ["tune", "smollm2-135m", "--data", "none.jsonl", "--output", "out"],
    ["tune", "--model", "gpt-4", "--data", __file__, "--output", "out"],
    ["sparsity"], ["sparsity", "show", "nope"], ["compare", "--help"], ["tune", "--help"],
    ["sparsity", "plan", "--model", "gpt-4", "--data", "x.jsonl", "--output", "p.yaml"],
    ["compare", "--model", "gpt-4", "--data", "x", "--eval", "y", "--methods", "lora",
     "--output", "out"],
    ["serve", "gpt-4", "--port", "0"], ["serve"], ["plan", "gpt-4"], ["verify"], ["bench"],
    ["adapters", "merge"], ["model"], ["keys"], ["train"],
):
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    assert code in (0, 1, 2), (words, code)
    heavy = {"torch", "trl", "peft", "transformers", "datasets", "numba"} & set(sys.modules)
    assert not heavy, (words, heavy)
"""


def test_mistakes_are_told_before_anything_heavy_is_loaded(tmp_path):
    script = tmp_path / "mistakes.jsonl"
    script.write_text(MISTAKES)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "--data, --model and --output are required" in done.stderr
    assert "unknown model 'gpt-4'" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mistakes.jsonl"]


def test_the_package_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "gossamer", "version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout[:9], done.stderr) == (0, "gossamer ", "")


READERS = [
    (["--help"], "0"),
    (["--help"], "1"),
    (["--version"], "1"),
    (["keys", "--help"], "0"),
    (["sparsity", "list"], "0"),
    (["train"], "1"),
]


@pytest.mark.parametrize(("words", "unbuffered"), READERS)
def test_a_reader_that_has_left_ends_the_command_quietly(words, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    to_errors = words == ["train"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gossamer", *words],
        stdout=subprocess.PIPE if to_errors else writing,
        stderr=writing if to_errors else subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writing)
    out, errors = process.communicate()
    assert (process.returncode, out or b"", errors or b"") == (141, b"", b"")


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(errno.ENOSPC, "x", "/a/b"), "no space left on device ('/a/b'); free space there"),
        (OSError(errno.EROFS, "x"), "read-only file system"),
        (PermissionError(errno.EACCES, "x", "/a/b"), "permission denied ('/a/b')"),
        (NotADirectoryError(errno.ENOTDIR, "x", "/a/b"), "not a directory ('/a/b')"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/a/b"), "No such file: '/a/b'"),
    ],
)
def test_an_error_of_the_disk_is_one_line_from_any_command(error, part, monkeypatch, capsys):
    def broken(args):
        raise error

    monkeypatch.setattr("gossamer.cli.keys.run", broken)
    assert main(["keys", "list"]) == 1
    assert part in err(capsys)


def test_a_bug_stays_a_traceback(monkeypatch):
    monkeypatch.setattr("gossamer.cli.keys.run", lambda args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["keys", "list"])


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_completion(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for word in ("tune", "pull", "max-context"):
        assert word in text


def test_bash_completes_commands_options_and_folders(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    (tmp_path / "runs").mkdir()
    complete = """
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _shtab_gossamer "$1" "${COMP_WORDS[COMP_CWORD]}"; printf '%s\\n' "${COMPREPLY[@]}"
    """

    def completed(*words):
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{complete}", "bash", "gossamer", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        return {line.strip() for line in done.stdout.splitlines()}

    assert completed("") >= COMMANDS.keys()
    assert completed("se") == {"serve"}
    assert "--max-context" in completed("serve", "--max-c")
    assert completed("model", "") >= {"pull", "list"}
    assert "runs" in {line.rstrip("/") for line in completed("serve", "--adapters", "r")}


def test_each_path_of_each_command_is_completed_as_one():
    """An argument that is a path has a placeholder that says so."""
    from pathlib import Path

    def actions(parser):
        for action in parser._actions:
            yield action
            if isinstance(action.choices, dict):
                for child in action.choices.values():
                    yield from actions(child)

    paths = [action for action in actions(whole_parser()) if action.type is Path]
    assert len(paths) > 8
    assert not [a.metavar for a in paths if getattr(a, "complete", None) is None]
