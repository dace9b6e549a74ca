"""A PostgreSQL server for the tests: the one that the environment names, or one of our own."""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine

URL = "GOSSAMER_TEST_POSTGRES"
MISSING = f"no PostgreSQL: set {URL} to a URL, or install its server"


def binaries() -> Path | None:
    """The folder with PostgreSQL's own programs; Debian keeps them out of the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class PostgresServer:
    """A server in a folder of its own; it is reached through a socket there."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # Short: the path of a socket has a limit of some hundred characters.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        # It refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self.folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._run("initdb", "-D", self._data, "-U", "tester", "-A", "trust", "-N")
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        self._run(
            "pg_ctl", "-D", self._data, "-w", "-l", f"{self.folder}/log", "-o", options, "start"
        )
        self.url = f"postgresql+psycopg://tester@/postgres?host={self.folder}"

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def stop(self) -> None:
        """End the server and remove its folder."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            check=True,
            user=self._user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
        )


@contextmanager
def served() -> Iterator[str]:
    """The URL of a server in which schemas can be made; skips the test where there is none."""
    if os.environ.get(URL):
        yield os.environ[URL]
        return
    programs = binaries()
    if programs is None:
        pytest.skip(MISSING)
    server = PostgresServer(programs)
    yield server.url
    server.stop()


@contextmanager
def schema(url: str) -> Iterator[str]:
    """The URL of an empty schema, which goes at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    joined = "&" if "?" in url else "?"
    yield f"{url}{joined}options=-csearch_path%3D{name}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    engine.dispose()
