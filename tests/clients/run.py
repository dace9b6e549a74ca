"""Has programs of others ask a server, each in an environment of its own: `make test-clients`.

python tests/clients/run.py [CLIENT...]

Serves a tiny model and an adapter. Each script in `checks` is one client: its first line names the
packages that it needs from the package index, and it is called with the address and a model's name.
Environments lie in build/clients and are made again when their packages change.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from gossamer.serving.client.child_server import child_server

ROOT = Path(__file__).parents[2]
CHECKS = Path(__file__).parent / "checks"
ENVIRONMENTS = ROOT / "build" / "clients"
SECONDS = 300
"""A check that takes longer has failed."""


def main(names: list[str]) -> int:
    """Run the checks of `names`, or all; 1 if one fails."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from tiny import make_lora, make_tiny_model

    checks = [path for path in sorted(CHECKS.glob("*.py")) if not names or path.stem in names]
    pythons = {check: _environment(check) for check in checks}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        # Its tokens are bytes, of which tools and schemas in a prompt have hundreds.
        model = make_tiny_model(Path(folder) / "tiny", max_position_embeddings=4096)
        make_lora(Path(folder) / "adapters" / "pirate", model, rank=4)
        options = ["--memory", "0.05", "--threads", "1", "--device", "cpu"]
        with child_server(str(model), Path(folder) / "adapters", options) as address:
            for check in checks:
                failed |= not _passes(check, pythons[check], address)
    return int(failed)


def _environment(check: Path) -> Path:
    """The Python of the environment of `check`, made if it is not there."""
    needs = check.read_text().splitlines()[0].removeprefix("# needs: ")
    folder = ENVIRONMENTS / check.stem
    python, noted = folder / "bin" / "python", folder / "needs.txt"
    if not noted.exists() or noted.read_text() != needs:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *needs.split()]
        subprocess.run(install, check=True)
        noted.write_text(needs)
    return python


def _passes(check: Path, python: Path, address: str) -> bool:
    command = [str(python), str(check), address, "pirate"]
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
