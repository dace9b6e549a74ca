"""How fast Tune Studio is with much to show: 500 jobs listed, a curve of 50,000 points drawn.

python benchmarks/studio.py --output results/studio_MACHINE_DATE.json

Fills a data folder with finished jobs, serves it, and measures over HTTP and in Chromium (without
a window): the list by the API, the page until its last row stands, the bytes and requests of the
first view, what an open page costs the server, the frames of a curve under a moving pointer, and
how long the process that checks an upload takes until it tells of the first 1,000 rows.
Times are those of this machine; take them while it does nothing else.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from playwright.sync_api import Page, sync_playwright

from common import describe_machine
from gossamer.basemodel.find import resolve
from gossamer.jobs.files.desk import MAX_REPORT_BYTES, answers
from gossamer.jobs.process import talking_to
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.jobs import NewJob, Repeat
from gossamer.serving.client.child_server import child_server

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
FEW_STEPS = 200
FRAMES = """
() => new Promise((done) => {
  const gaps = [];
  let last = performance.now();
  const end = last + 3000;
  const frame = (now) => {
    gaps.push(now - last);
    last = now;
    if (now < end) requestAnimationFrame(frame);
    else done(gaps.slice(2));
  };
  requestAnimationFrame(frame);
})
"""
FIRST_VIEW = """
() => {
  const loads = [...performance.getEntriesByType("resource"),
    ...performance.getEntriesByType("navigation")].filter((e) => !e.name.includes("/api/"));
  return { requests: loads.length, bytes: loads.reduce((sum, e) => sum + e.decodedBodySize, 0),
    sent: loads.reduce((sum, e) => sum + e.transferSize, 0) };
}
"""


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--jobs", type=int, default=500, help="finished jobs [default: 500]")
    parser.add_argument("--points", type=int, default=50_000, help="of a curve [default: 50000]")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gossamer-studio-") as folder:
        settings = JobsSettings(data_dir=f"{folder}/data", max_queued_jobs=args.jobs)
        job = fill(settings, resolve(args.model).name, args.jobs, args.points)
        options = ["--jobs", "--studio", "--data-dir", settings.data_dir]
        with child_server(args.model, None, options) as url:
            report = {"machine": describe_machine(), "jobs": args.jobs, "points": args.points}
            report |= over_http(url, args.jobs)
            report |= in_browser(url, args.jobs, job)
        report |= first_rows(Path(folder))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def first_rows(folder: Path) -> dict[str, Any]:
    """Seconds until the first report on an upload of 100,000 rows, five times over."""
    rows = folder / "rows.jsonl"
    turns = [
        {"role": "user", "content": "Where do you live, and what do you eat there, number N?"},
        {"role": "assistant", "content": "Aboard the Sloop, arr! Fish, and more fish, N."},
    ]
    line = json.dumps({"messages": turns}) + "\n"
    rows.write_text("".join(line.replace("N", str(number)) for number in range(100_000)))
    question = {"path": str(rows), "name": rows.name, "max_bytes": 4 * 2**30, "max_seconds": 300}
    wall, processor = [], []
    for _ in range(5):
        began = time.perf_counter()
        with talking_to("gossamer.jobs.files.check") as process:
            assert next(answers(process, question, MAX_REPORT_BYTES))["rows"]["read"] == 1000
            wall.append(time.perf_counter() - began)
            times = psutil.Process(process.pid).cpu_times()
            processor.append(times.user + times.system)
            process.kill()
    return {
        "first_rows_seconds": statistics.median(wall),
        "first_rows_processor_seconds": statistics.median(processor),
    }


def fill(settings: JobsSettings, model: str, count: int, points: int) -> str:
    """Make `count` finished jobs, the newest with a curve of `points`; returns its identifier."""
    store = JobStore.open(settings)
    file = store.files.create(
        "default",
        purpose="fine-tune",
        filename="rows.jsonl",
        bytes=10,
        sha256="ab" * 32,
        status="processed",
    )
    job_id = ""
    for number in range(count):
        new = NewJob(
            tenant="default",
            model=model,
            training_file=file.id,
            name=f"ft:{model}:default:n{number}:{number:08d}",
            seed=0,
            request={"model": model, "suffix": f"n{number}"},
            request_sha256=f"{number:064d}",
            resolved={"adapter": {"method": "lora", "rank": 8}, "training": {}},
            metadata={},
            max_waiting=count,
        )
        job_id = store.jobs.create(new, Repeat())[0].id
        steps = points if number == count - 1 else FEW_STEPS
        _write_metrics(settings.folder.job(job_id).run, steps)
    with store.database.write() as session:
        session.connection().exec_driver_sql(
            f"UPDATE jobs SET status = 'succeeded', finished = {time.time()}, steps = {points}"
        )
    store.close()
    return job_id


def _write_metrics(run: Path, steps: int) -> None:
    run.mkdir(parents=True)
    now = time.time()
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            line = {"step": step, "loss": 2 + 1 / step + (step % 7) / 50, "time": now + step / 10}
            file.write(json.dumps({**line, "seconds": 0.1, "tokens": 100}) + "\n")


def over_http(url: str, count: int) -> dict[str, Any]:
    """Seconds of the list of all jobs, the first time and the median of later ones."""
    seconds = []
    with httpx.Client(base_url=url, timeout=120) as client:
        for _ in range(8):
            started = time.perf_counter()
            found = client.get(f"/v1/fine_tuning/jobs?limit={count}").json()["data"]
            seconds.append(time.perf_counter() - started)
            assert len(found) == count
    return {"list_first_ms": 1000 * seconds[0], "list_ms": 1000 * statistics.median(seconds[1:])}


def in_browser(url: str, count: int, job: str) -> dict[str, Any]:
    """What a person feels."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(120_000)
        page.goto(f"{url}/studio/")
        rows = f"() => document.querySelectorAll('ul.jobs > li').length >= {count}"
        listed = page.wait_for_function(f"{rows} && performance.now()").json_value()
        report = {"page_with_all_jobs_ms": listed, "first_view": page.evaluate(FIRST_VIEW)}
        report["server_cpu_share_with_one_page"] = _cpu_share(url)
        report |= _curve(page, url, job)
        browser.close()
    return report


def _cpu_share(url: str, seconds: float = 10.0) -> float:
    """How much of one processor the server takes while a page is open and nothing happens."""
    port = int(url.rpartition(":")[2])
    (server,) = {
        each.pid
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid
    }
    process = psutil.Process(server)
    before = sum(process.cpu_times()[:2])
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / seconds


def _curve(page: Page, url: str, job: str) -> dict[str, Any]:
    """The time until a curve stands, and of each frame while the pointer moves over it."""
    page.goto(f"{url}/studio/jobs/{job}")
    drawn = page.wait_for_function(
        "() => document.querySelector('.chart canvas') && performance.now()"
    ).json_value()
    box = page.locator(".chart canvas").first.bounding_box()
    assert box is not None
    page.evaluate(f"window.gaps = ({FRAMES})()")
    for place in range(60):
        page.mouse.move(box["x"] + box["width"] * (0.1 + 0.8 * place / 60), box["y"] + 100)
    gaps = sorted(page.evaluate("window.gaps"))
    return {
        "curve_ms": drawn,
        "frame_ms": {
            "median": statistics.median(gaps),
            "p95": gaps[int(0.95 * (len(gaps) - 1))],
            "longest": gaps[-1],
        },
    }


if __name__ == "__main__":
    main()
