"""Checkpoints that are served while a job runs, and lines that are read once."""

import json
from dataclasses import replace
from pathlib import Path

from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.store.records import JobRecord
from gossamer.serving.store.folder import AdapterFolder
from gossamer.studio.view.checkpoints import publish_checkpoints, retire_checkpoints
from gossamer.studio.view.lines import MAX_KEPT, RunLines, progress_of

JOB_ID = "ftjob-" + "a" * 24
NAME = "ft:tiny:alice:a-b.c:abcdefgh"


def job(method="lora"):
    values = dict.fromkeys(JobRecord.__dataclass_fields__)
    values |= {"id": JOB_ID, "name": NAME, "resolved": {"adapter": {"method": method}}}
    return JobRecord(**values)


def checkpoint(folder, step, *, is_whole=True):
    path = folder.job(JOB_ID).run / "checkpoints" / f"step-{step}"
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text("{}")
    if is_whole:
        (path / "adapter_model.safetensors").write_bytes(b"x")
    return path


def made(tmp_path):
    folder = DataFolder(tmp_path / "data")
    folder.make()
    return folder


def test_checkpoints_are_served_by_name_as_long_as_they_are_there(tmp_path):
    folder = made(tmp_path)
    first, _ = checkpoint(folder, 10), checkpoint(folder, 20)
    checkpoint(folder, 30, is_whole=False)
    assert sorted(publish_checkpoints(folder, job())) == [10, 20]
    served = AdapterFolder(folder.served)
    assert served.names() == [f"{NAME}:ckpt-step-10", f"{NAME}:ckpt-step-20"]
    assert served.look_up(f"{NAME}:ckpt-step-10").path.resolve() == first
    for file in first.iterdir():
        file.unlink()
    first.rmdir()
    assert sorted(publish_checkpoints(folder, job())) == [20]
    assert [link.name for link in folder.served.iterdir()] == [f"{NAME}:ckpt-step-20"]
    folder.link("ft:tiny:alice:a-bxc:abcdefgh:ckpt-step-1").symlink_to("nowhere")
    retire_checkpoints(folder, NAME)
    assert len(list(folder.served.iterdir())) == 1


def test_methods_whose_checkpoints_are_no_adapters_have_none_listed(tmp_path):
    folder = made(tmp_path)
    checkpoint(folder, 10)
    for method in ("pissa", "smt", "slora", "loreft", "full"):
        assert publish_checkpoints(folder, job(method)) == {}
    assert not list(folder.served.iterdir())


def test_lines_are_read_again_only_when_the_file_has_changed(tmp_path, monkeypatch):
    folder = made(tmp_path)
    run = folder.job(JOB_ID).run
    run.mkdir(parents=True)
    lines = RunLines(folder)
    assert lines.of(JOB_ID) == []
    path = run / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n")
    first = lines.of(JOB_ID)
    assert [line["step"] for line in first] == [1]
    assert lines.of(JOB_ID) is first
    with path.open("a") as file:
        file.write(json.dumps({"step": 2, "loss": 1.0}) + '\n[]\n{"x": 1}\n{"step": 3, "lo')
    assert [line["step"] for line in lines.of(JOB_ID)] == [1, 2]


def test_few_runs_are_kept(tmp_path):
    folder = made(tmp_path)
    lines = RunLines(folder)
    for number in range(MAX_KEPT + 5):
        job_id = f"ftjob-{number:024d}"
        run = folder.job(job_id).run
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
        assert len(lines.of(job_id)) == 1
    assert len(lines._whole._runs) == MAX_KEPT


def test_a_list_of_many_jobs_reads_no_run_again(tmp_path, monkeypatch):
    folder = made(tmp_path)
    lines = RunLines(folder)
    jobs = [f"ftjob-{number:024d}" for number in range(MAX_KEPT + 5)]
    written = [{"step": n, "loss": 9.0 - n / 100, "seconds": 0.5} for n in range(1, 101)]
    written.insert(40, {"step": 40, "eval_loss": 3.0})
    for job_id in jobs:
        run = folder.job(job_id).run
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in written))
    ends = [lines.last_of(job_id) for job_id in jobs]
    monkeypatch.setattr(Path, "read_text", None)
    assert all(lines.last_of(job_id) is end for job_id, end in zip(jobs, ends, strict=True))
    running = replace(job(), status="running", steps=120)
    assert progress_of(running, ends[0]) == progress_of(running, written)
    assert progress_of(running, ends[0])["valid_loss"] == 3.0
    assert len(ends[0]) < len(written)
