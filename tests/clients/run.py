"""Has programs of others ask a server, each in an environment of its own: `make test-clients`.

python tests/clients/run.py [CLIENT...]

Each script in `checks` is one client of a tiny model and an adapter, each in `agents` one that
solves a task with tools, for which the server's answers come from a script. Their first line names
the packages that they need from the package index, and they are called with the address and a
model's name. Environments lie in build/clients and are made again when their packages change.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gossamer.serving.client.child_server import child_server

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ENVIRONMENTS = ROOT / "build" / "clients"
NEEDS = "# needs: "
SECONDS = 300
"""A check that takes longer has failed."""


def main(names: list[str]) -> int:
    """Run the checks of `names`, or all; 1 if one fails."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
    from scripted import scripted

    failed = False
    for folder, serve, model in (
        (HERE / "checks", tiny_server, "pirate"),
        (HERE / "agents", scripted, "tiny"),
    ):
        checks = [path for path in _checks(folder) if not names or path.stem in names]
        if not checks:
            continue
        pythons = {check: _environment(check) for check in checks}
        with serve() as address:
            for check in checks:
                failed |= not _passes(check, pythons[check], address, model)
    return int(failed)


@contextmanager
def tiny_server() -> Iterator[str]:
    """Serve a tiny model with the adapter pirate; yields the address."""
    from tiny import make_lora, make_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        # Its tokens are bytes, of which tools and schemas in a prompt have hundreds.
        model = make_tiny_model(Path(folder) / "tiny", max_position_embeddings=4096)
        make_lora(Path(folder) / "adapters" / "pirate", model, rank=4)
        options = ["--memory", "0.05", "--threads", "1", "--device", "cpu"]
        with child_server(str(model), Path(folder) / "adapters", options) as address:
            yield address


def _checks(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.py")) if path.read_text().startswith(NEEDS)]


def _environment(check: Path) -> Path:
    """The Python of the environment of `check`, made if it is not there."""
    needs = check.read_text().splitlines()[0].removeprefix(NEEDS)
    folder = ENVIRONMENTS / check.stem
    python, noted = folder / "bin" / "python", folder / "needs.txt"
    if not noted.exists() or noted.read_text() != needs:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *needs.split()]
        subprocess.run(install, check=True)
        noted.write_text(needs)
    return python


def _passes(check: Path, python: Path, address: str, model: str) -> bool:
    command = [str(python), str(check), address, model]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        print(f"FAIL {check.stem}: over {SECONDS} s", flush=True)
        return False
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        print(f"FAIL {check.stem}: {' '.join(last)}", flush=True)
        return False
    print(f"ok   {check.stem}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
