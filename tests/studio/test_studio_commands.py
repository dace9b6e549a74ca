"""Jobs beside a server: what is refused before a model is loaded, and what the server imports."""

import subprocess
import sys

import pytest
from commands.output import one_line

from gossamer.cli.main import main


@pytest.fixture
def no_engine(monkeypatch):
    """Fail the test if a model is loaded."""

    def start_engine(*arguments, **named):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("gossamer.cluster.tensor_parallel.start.start_engine", start_engine)


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    ("command", "what"), [(["serve", "--jobs"], "--jobs"), (["studio"], "--studio")]
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    capsys, monkeypatch, command, what, tmp_path
):
    from gossamer import extras

    find = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "alembic" else find(name))
    assert main([*command, "tiny", "--port", "0", "--data-dir", str(tmp_path / "d")]) == 2
    error = one_line(capsys)
    assert f"{what} needs alembic" in error
    assert "pip install -e '.[studio]'" in error
    assert not (tmp_path / "d").exists()


@pytest.mark.usefixtures("no_engine")
def test_a_door_that_is_open_to_all_is_not_opened_for_training(capsys, tmp_path):
    command = ["studio", "tiny", "--host", "0.0.0.0", "--port", "0"]
    assert main([*command, "--data-dir", str(tmp_path / "d")]) == 2
    assert "ask for keys with --keys FILE" in one_line(capsys)
    assert not (tmp_path / "d").exists()


@pytest.mark.usefixtures("no_engine")
def test_settings_of_jobs_need_jobs(capsys):
    assert main(["serve", "tiny", "--port", "0", "--max-jobs", "2"]) == 2
    assert "--max-jobs is for a server with --jobs" in one_line(capsys)


def test_a_server_that_is_not_there_is_named(capsys):
    assert main(["jobs", "list", "--url", "http://127.0.0.1:9"]) == 1
    assert "http://127.0.0.1:9 does not answer" in one_line(capsys)


def run_without(packages, statements):
    code = f"import sys\nfor name in {packages}: sys.modules[name] = None\n{statements}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_server_with_jobs_imports_neither_peft_nor_torch_for_them():
    done = run_without(
        ("peft", "trl", "datasets", "accelerate", "torch", "transformers"),
        "import gossamer.studio.assembly, gossamer.jobs.supervise.supervisor\n"
        "import gossamer.jobs.supervise.estimate, gossamer.cli.parts.served_jobs\n",
    )
    assert done.returncode == 0, done.stderr


def test_the_base_install_serves_without_the_extra():
    done = run_without(
        ("sqlalchemy", "alembic", "python_multipart", "psycopg"),
        "import gossamer.cli.serve, gossamer.cli.studio, gossamer.cli.jobs\n"
        "import gossamer.serving.http.app\n"
        "from gossamer.cli.main import main\n"
        "main(['serve', '--help'])\n",
    )
    assert done.returncode == 0, done.stderr
    assert "--jobs" in done.stdout
