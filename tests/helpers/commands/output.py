"""What a command has printed."""


def one_line(capsys) -> str:
    """The error of a command that printed nothing else."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gossamer: error: ")
    assert captured.err.count("\n") == 1
    return captured.err
