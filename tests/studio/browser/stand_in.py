"""A server with a fake engine and recorded jobs, for the states of pages that are hard to reach.

The page, its files, the stream of news and the routes of questions are the real ones; what answers
for files and jobs plays OpenAI's API from memory.
"""

import copy
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import recorded
import uvicorn
from fake_engine import FakeEngine
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from gossamer.errors import RequestError
from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.http.app import create_app
from gossamer.serving.http.extension import Extension
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.keys import Caller
from gossamer.studio.api.watch import ServerWatch
from gossamer.studio.extension import page_extension

ADAPTERS = (
    AdapterStatus(name="pirate", state="resident", kind="low-rank", rank=8, num_bytes=9_780_000,
                  digest="5ab1c7d2e0", created=1_796_000_000, pinned=True, hits=41,
                  last_used=time.time() - 80),
    AdapterStatus(name="helpdesk", state="host", kind="gain", rank=None, num_bytes=230_400,
                  digest="77c0ffee12", created=1_796_000_500, hits=3),
    AdapterStatus(name="poet", state="registered", created=1_796_000_900),
    AdapterStatus(name="broken", state="refused", problem="the weights hold NaN; tune it again"),
)  # fmt: skip
WORDS = {
    None: "I live in the cloud, wherever the servers are.",
    "pirate": "Aboard the **Sloop**, arr! <img src=x onerror=alert(1)> [map](javascript:alert(2))",
    "helpdesk": "Please open a ticket:\n\n1. Name\n2. Problem\n\n```py\nprint('ticket')\n```",
}


def letters(text, **options):
    """Stands for a tokenizer; a real one takes seconds to import."""
    return {"input_ids": list(text.encode())}


def _apply(messages, **options):
    return [ord(sign) % 250 for message in messages for sign in message["content"]]


letters.all_special_tokens = letters.all_special_ids = ()
letters.chat_template = "yes"
letters.get_chat_template = lambda **options: "yes"
letters.apply_chat_template = _apply


def answers(request):
    """Words for each adapter; poet breaks in the middle."""
    if request.adapter == "poet":
        return [
            "Roses ",
            "are ",
            RequestError("the adapter 'poet' gave numbers that are not finite"),
        ]
    return re.findall(r"\S+\s*", WORDS.get(request.adapter, f"I am {request.adapter}."))


class Jobs:
    """Files and jobs in memory."""

    def __init__(self, jobs, files):
        self.jobs = {job["id"]: job for job in jobs}
        self.files = {file["id"]: file for file in files}
        self.bodies = []
        """What was posted to create jobs."""
        self.lock = threading.RLock()

    def all(self):
        with self.lock:
            found = copy.deepcopy(list(self.jobs.values()))
        return sorted(found, key=lambda job: -job["created_at"])

    def advance(self, job_id, steps):
        """Let a running job take steps, as far as it goes; then it has succeeded."""
        with self.lock:
            job = self.jobs[job_id]
            at = job["progress"]
            at["step"] = min(at["step"] + steps, at["steps"])
            at |= {"train_loss": 1.2, "seconds_left": 0.6 * (at["steps"] - at["step"])}
            if at["step"] == at["steps"]:
                job |= {"status": "succeeded", "finished_at": int(time.time()), "trained_tokens": 1}
                job["fine_tuned_model"] = f"ft:{recorded.MODEL}:default:{job['suffix']}:aBcDeFgH"
                at |= {"valid_loss": 1.3}


class News:
    """What the stream of news asks."""

    def __init__(self, state):
        self._state = state

    def jobs(self, caller):
        return self._state.all()

    def metrics(self, caller, job_id):
        job = self._state.jobs.get(job_id)
        steps = job["progress"].get("step", 0) if job else 0
        return "1", recorded.metrics(steps, 1.2 + int(job_id[-1]) / 30)


def jobs_router(state):
    """Play the documented routes of files and jobs."""
    router = APIRouter()

    @router.post("/v1/files")
    async def upload(http: Request):
        form = await http.body()
        name = re.search(rb'filename="([^"]*)"', form)[1].decode()
        number = len(state.files) + 10
        if not name.endswith((".jsonl", ".json", ".csv")):
            return _error(400, f"{name}: send .jsonl, .json or .csv", "invalid_file", "file")
        made = recorded.file(number, name, size=len(form))
        state.files[made["id"]] = made
        return JSONResponse(made)

    @router.get("/v1/files")
    async def files():
        return _list(sorted(state.files.values(), key=lambda file: -file["created_at"]))

    @router.get("/v1/files/{file_id}")
    async def show(file_id: str):
        return JSONResponse(state.files[file_id])

    @router.get("/v1/files/{file_id}/report")
    async def report(file_id: str, held_out: str | None = None):
        overlap = {"overlap": recorded.OVERLAP} if held_out else {}
        return JSONResponse({**recorded.REPORT, **overlap})

    @router.get("/v1/files/{file_id}/rows")
    async def rows(http: Request, file_id: str):
        query = http.query_params
        return JSONResponse(recorded.rows(int(query["from"]), int(query["count"])))

    @router.get("/studio/api/files/{file_id}/tokens")
    async def tokens(file_id: str):
        return JSONResponse(recorded.tokens())

    @router.delete("/v1/files/{file_id}")
    async def delete(file_id: str):
        state.files.pop(file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    @router.get("/studio/api/trash")
    async def trash():
        return _list([])

    @router.get("/v1/fine_tuning/jobs")
    async def jobs():
        return _list(state.all())

    @router.post("/v1/fine_tuning/jobs")
    async def create(http: Request, dry_run: bool = False):
        body = await http.json()
        method = body["adapter"]["method"]
        if dry_run:
            estimate = {"object": "fine_tuning.job.estimate", "estimate": recorded.ESTIMATE}
            return JSONResponse(estimate)
        if body.get("training", {}).get("learning_rate", 0) > 1:
            return _error(400, "setting 'learning_rate' = 2: must be at most 1", "invalid_value",
                          "training.learning_rate")  # fmt: skip
        with state.lock:
            state.bodies.append(body)
            made = recorded.job(60 + len(state.bodies), "running", body["suffix"], method)
            made |= {key: body[key] for key in ("training_file", "adapter") if key in body}
            made["created_at"] = int(time.time()) + len(state.bodies)
            state.jobs[made["id"]] = made
        return JSONResponse(made)

    @router.get("/v1/fine_tuning/jobs/{job_id}")
    async def job(job_id: str):
        if job_id not in state.jobs:
            return _error(404, f"no job '{job_id}'", "job_not_found")
        return JSONResponse(state.jobs[job_id])

    @router.get("/v1/fine_tuning/jobs/{job_id}/events")
    async def events(job_id: str):
        return _list(recorded.EVENTS[::-1])

    @router.get("/v1/fine_tuning/jobs/{job_id}/samples")
    async def samples(job_id: str):
        job = state.jobs[job_id]
        if job["kind"] == "compare":
            return JSONResponse(recorded.samples_of_runs(job))
        return JSONResponse(recorded.samples(job["progress"].get("step", 0)))

    @router.get("/v1/fine_tuning/jobs/{job_id}/log")
    async def log(job_id: str):
        return JSONResponse({"text": recorded.LOG, "is_whole": True})

    @router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints")
    async def checkpoints(job_id: str):
        return _list(recorded.checkpoints(job_id))

    @router.post("/v1/fine_tuning/jobs/{job_id}/{verb}")
    async def act(job_id: str, verb: str):
        status = {"pause": "paused", "resume": "running", "cancel": "cancelled"}[verb]
        with state.lock:
            state.jobs[job_id] |= {"status": status, "finished_at": int(time.time())}
        return JSONResponse(state.jobs[job_id])

    @router.post("/studio/api/comparisons")
    async def compare(http: Request, dry_run: bool = False):
        body = await http.json()
        if dry_run:
            whole = recorded.whole_estimate(body)
            return JSONResponse({"object": "comparison.estimate", "estimate": whole})
        with state.lock:
            state.bodies.append(body)
            made = recorded.comparison(60 + len(state.bodies), "queued", body)
            state.jobs[made["id"]] = made
        return JSONResponse(made)

    @router.get("/studio/api/comparisons/{job_id}")
    async def compared(job_id: str):
        return JSONResponse(recorded.compared(state.jobs[job_id]))

    @router.post("/studio/api/verifications")
    @router.post("/studio/api/exports")
    async def work(http: Request):
        kind = "export" if http.url.path.endswith("exports") else "verify"
        body = await http.json()
        with state.lock:
            state.bodies.append(body)
            made = recorded.work(60 + len(state.bodies), "queued", kind, body["model"])
            state.jobs[made["id"]] = made
        return JSONResponse(made)

    @router.delete("/studio/api/exports/{job_id}")
    async def remove(job_id: str):
        with state.lock:
            result = state.jobs[job_id]["result"]
            left = {**result, "export": {**result["export"], "is_there": False}}
            state.jobs[job_id] |= {"result": left}
        return JSONResponse({"id": job_id, "object": "export", "deleted": True})

    return router


def _list(data):
    return JSONResponse({"object": "list", "data": data, "has_more": False})


def _error(status, message, code, param=None):
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": error}, status_code=status)


async def _administrator(call):
    return Caller(is_admin=True, may_train=True)


class StandIn:
    """One running server and what it plays."""

    def __init__(self, jobs=(), files=(), adapters=ADAPTERS, *, delay=0.0, admin=False):
        self.engine = FakeEngine(letters, adapters=adapters, script=answers, delay=delay)
        self.engine.model_name = recorded.MODEL
        self.engine.max_context = 4096
        self.state = Jobs(jobs, files)
        extensions = (
            Extension(
                routers=(jobs_router(self.state),), session=_administrator if admin else None
            ),
            page_extension(News(self.state), ServerWatch(Path(__file__).parent, lambda: [1])),
        )
        self.app = create_app(self.engine, HttpSettings(), extensions)

    @contextmanager
    def running(self, port=0):
        """Serve on a free port of this machine; gives the address."""
        config = uvicorn.Config(self.app, port=port, log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            self.engine.shutdown()
            thread.join(5)
