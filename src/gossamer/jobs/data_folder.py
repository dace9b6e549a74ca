"""The folder that holds all files of jobs: what lies where.

DATA/
  studio.sqlite          the database, unless another is named
  blobs/ab/abcd...       uploads under the SHA-256 of their bytes, never changed
  scratch/               half uploads
  jobs/ftjob-X/          one job: log.txt, lock, outcome.json, data/ (links to blobs), and
    run/                 the run folder, as `gossamer tune` writes it
    models/NAME/         the adapters of a job that makes several
  imports/NAME/          an adapter that came from elsewhere
  served/NAME            a link to the folder of an adapter: a folder of adapters for the server
  exports/ftjob-X/NAME   what a job made that is not served: a merged model, a converted adapter
  trash/NAME             the same link, while a deleted model can be had back
"""

from dataclasses import dataclass
from pathlib import Path

from gossamer.files import storing
from gossamer.jobs.ids import is_id

DATABASE = "studio.sqlite"


@dataclass(frozen=True, slots=True)
class JobPaths:
    """The files of one job below its folder."""

    root: Path

    @property
    def id(self) -> str:
        """The job's identifier."""
        return self.root.name

    @property
    def run(self) -> Path:
        """The run folder: settings, metrics, checkpoints, adapter."""
        return self.root / "run"

    @property
    def models(self) -> Path:
        """The folders of the tuned models by name, of a job that makes several."""
        return self.root / "models"

    @property
    def data(self) -> Path:
        """Links to the blobs of the job's rows, with the endings that tell their format."""
        return self.root / "data"

    @property
    def lock(self) -> Path:
        """The lock that the one living worker of the job holds."""
        return self.root / "lock"

    @property
    def log(self) -> Path:
        """What workers print."""
        return self.root / "log.txt"

    @property
    def outcome(self) -> Path:
        """How the job ended, written before the database is told."""
        return self.root / "outcome.json"


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The paths below the folder `root`."""

    root: Path

    def make(self) -> None:
        """Create the folder and those in it, for their owner alone; raises `StorageError`."""
        with storing(f"cannot use --data-dir {self.root}"):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (
                self.blobs,
                self.scratch,
                self.jobs,
                self.imports,
                self.served,
                self.exports,
                self.trash,
            ):
                folder.mkdir(mode=0o700, exist_ok=True)

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / DATABASE

    @property
    def blobs(self) -> Path:
        """The bytes of uploads."""
        return self.root / "blobs"

    @property
    def scratch(self) -> Path:
        """What is being received."""
        return self.root / "scratch"

    @property
    def jobs(self) -> Path:
        """A folder for each job."""
        return self.root / "jobs"

    @property
    def imports(self) -> Path:
        """Adapters that no job has made, a folder for each."""
        return self.root / "imports"

    @property
    def served(self) -> Path:
        """Links to finished adapters, by model name."""
        return self.root / "served"

    @property
    def exports(self) -> Path:
        """Merged models and archives."""
        return self.root / "exports"

    @property
    def trash(self) -> Path:
        """Links to what was deleted and may be wanted back."""
        return self.root / "trash"

    def blob(self, sha256: str) -> Path:
        """The file of the bytes with that digest (64 hexadecimal digits)."""
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise ValueError(f"not a SHA-256: {sha256!r}")
        return self.blobs / sha256[:2] / sha256

    def job(self, job_id: str) -> JobPaths:
        """The paths of a job; raises `ValueError` for what is no identifier of one."""
        if not is_id(job_id, "ftjob-"):
            raise ValueError(f"not the identifier of a job: {job_id!r}")
        return JobPaths(self.jobs / job_id)

    def export(self, job_id: str) -> Path:
        """The folder of what a job has exported; raises as `job`."""
        return self.exports / self.job(job_id).id

    def link(self, model: str) -> Path:
        """The link by which the server finds the model of that name."""
        return self.served / model


def run_place(job_id: str) -> str:
    """The run folder of a job, as a path below any data folder."""
    return DataFolder(Path()).job(job_id).run.as_posix()


def model_place(job_id: str, model: str) -> str:
    """The folder of one model of a job that makes several, as a path below any data folder."""
    return (DataFolder(Path()).job(job_id).models / model).as_posix()
