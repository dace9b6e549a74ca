"""Objects of the jobs API as a server gives them, in the states that pages show."""

import math
import time
from collections import Counter
from statistics import NormalDist

MODEL = "smollm2-135m"


def job(number, status, name, method="lora", **changes):
    """A job with all fields that OpenAI's client requires, and ours."""
    now = int(time.time())
    trainable = {"lora": 2_442_240, "dora": 2_597_760}.get(method, 57_600)
    return {
        "id": f"ftjob-{number:024d}",
        "object": "fine_tuning.job",
        "created_at": now - 60 * (50 - number),
        "finished_at": None,
        "model": MODEL,
        "fine_tuned_model": None,
        "organization_id": "default",
        "status": status,
        "hyperparameters": {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0},
        "training_file": "file-train",
        "validation_file": None,
        "result_files": [],
        "seed": 0,
        "trained_tokens": None,
        "error": None,
        "metadata": {},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {}}},
        "suffix": name,
        "alias": None,
        "adapter": {"method": method, **({"rank": 8} if method in ("lora", "dora") else {})},
        "training": {
            "max_length": 512,
            "eval_every": 20,
            "learning_rate": 1e-3,
            "eval_split": 0.1,
            "samples": 3,
        },
        "estimate": {**ESTIMATE, "trainable": trainable},
        "attempt": 1,
        "kind": "tune",
        "result": None,
        "resumed_from": None,
        "progress": {"step": 0, "steps": 230},
        **changes,
    }


# What a process says of a job that waits.
ESTIMATE = {
    "rows": 612,
    "tokens": 48_211,
    "steps": 230,
    "adapter_bytes": 9_780_000,
    "memory": 1_825_361_100,
    "seconds": None,
    "seconds_range": [140.0, 750.0],
}


def whole_estimate(body):
    """What all runs of a comparison take, one of which cannot be."""
    runs = len(body["methods"]) * len(body["seeds"])
    return {
        **ESTIMATE,
        "steps": 230 * runs,
        "memory": 3_371_549_491,
        "seconds": 412.0 * runs,
        "problems": {},
    }


def finished(number, name, method, last_loss):
    """A job that succeeded some minutes ago."""
    now = int(time.time())
    return job(
        number,
        "succeeded",
        name,
        method,
        fine_tuned_model=f"ft:{MODEL}:default:{name}:aBcDeF{number:02d}",
        finished_at=now - 60 * (45 - number),
        trained_tokens=59_610,
        result_files=[f"file-metrics-{number}"],
        progress={"step": 230, "steps": 230, "train_loss": 1.18, "valid_loss": last_loss},
    )


def comparison(number, status, body, **changes):
    """A comparison as one job."""
    methods = [each["method"] for each in body["methods"]]
    about = {
        "methods": methods,
        "entries": body["methods"],
        "seeds": body.get("seeds", [0]),
        "held_out": body.get("held_out"),
    }
    changes = {"estimate": whole_estimate({"seeds": [0], **body}), "adapter": {}, **changes}
    return job(number, status, body.get("suffix"), kind="compare", comparison=about, **changes)


def compared(job):
    """The runs of a comparison whose first method is done."""
    method, *others = job["comparison"]["methods"]
    figures = {"trainable": 2_442_240, "steps": 60, "tokens": 15_600, "seconds": 37.2}
    figures |= {"peak_memory": 1_325_361_100, "learning_rate": 1e-3}
    lines = [line for line in metrics(60) if "loss" in line]
    done = {
        **run_of(method, "succeeded"),
        "model": f"ft:{MODEL}:default:quiz-{method}:aBcDeFgH",
        "figures": {**figures, "evaluation": {"loss": 1.31, "right": 7, "rows": 10}},
        "lines": lines,
    }
    rest = [run_of(each, "queued") for each in others]
    base = {"loss": 2.9, "right": 1, "rows": 10}
    return {"object": "comparison", "id": job["id"], "base": base, "runs": [done, *rest]}


def run_of(method, status):
    """A run of a comparison that has not begun."""
    return {
        "id": f"{method}-seed0",
        "label": method,
        "name": method,
        "adapter": {"method": method},
        "seed": 0,
        "status": status,
        "error": None,
        "model": None,
        "figures": None,
        "lines": [],
    }


def work(number, status, kind, model, **changes):
    """A proof or an export as a job."""
    about = {"training_file": "", "target": model, "format": "merged"}
    return job(number, status, None, kind=kind, adapter={}, **about, **changes)


def jobs():
    """One job of every kind that the list shows, the newest first."""
    failed = {
        "code": "diverged",
        "message": "the loss became NaN at step 12; try a learning rate below 1e-3",
        "param": None,
    }
    running = {
        "step": 143,
        "steps": 230,
        "seconds_left": 118.0,
        "tokens_per_second": 410.0,
        "train_loss": 1.21,
        "valid_loss": 1.38,
    }
    return [
        job(9, "running", "pirate", "dora", progress=running, attempt=2, resumed_from=90),
        job(8, "queued", "quiz", progress={"reason": "1 job before it"}),
        finished(7, "helpdesk", "lora", 1.31),
        finished(6, "poet", "ia3", 1.52),
        job(5, "failed", "moody", "lora", error=failed, finished_at=int(time.time()) - 900),
        job(4, "paused", "letters", progress={"step": 40, "steps": 100, "train_loss": 2.01}),
        job(3, "cancelled", "draft", finished_at=int(time.time()) - 4000),
    ]


TUNED = f"ft:{MODEL}:default:helpdesk:aBcDeF07"


def other_jobs():
    """A comparison, a job that starves, an export and a proof."""
    quiz = {"suffix": "quiz-all", "methods": [{"method": "lora"}, {"method": "dora"}]}
    at = {"step": 60, "steps": 120, "train_loss": 1.3, "seconds_left": 41.0}
    starved = "other work has the processors; this job gets 2% of one"
    export = {"name": "poet-merged", "bytes": 270_000_000, "what": "merged model", "is_there": True}
    proof = {"passed": True, "words": "The result: all 128 tokens are those of PEFT."}
    ended = int(time.time()) - 300
    return [
        comparison(20, "running", {**quiz, "held_out": 0.1}, progress=at),
        job(19, "running", "letters-2", progress={"step": 0, "steps": 230, "reason": starved}),
        work(2, "succeeded", "export", TUNED, result={"export": export}, finished_at=ended),
        work(1, "succeeded", "verify", TUNED, result=proof, finished_at=ended),
    ]


def metrics(steps, end=1.3):
    """Lines as a run writes them: a loss that falls, noise, and held-out losses between."""
    lines = []
    for step in range(1, steps + 1):
        train = end - 0.2 + 1.9 * math.exp(-step / 60) + 0.12 * math.sin(step * 12.9898)
        line = {"step": step, "loss": round(train, 4), "learning_rate": 1e-3 * (1 - step / 230)}
        line |= {"tokens": 260, "seconds": 0.62, "grad_norm": 0.8}
        lines.append(line)
        if step % 20 == 0:
            valid = end + 1.6 * math.exp(-step / 50) + 0.0001 * step
            lines.append({"step": step, "eval_loss": round(valid, 4), "seconds": 1.1})
    return lines


def event(number, message, level="info", kind="message", **data):
    return {
        "id": f"ftevent-{number}",
        "object": "fine_tuning.job.event",
        "created_at": int(time.time()) - 600 + 20 * number,
        "level": level,
        "message": message,
        "type": kind,
        "data": data,
    }


EVENTS = [
    event(1, "Created fine-tuning job: ftjob-000000000000000000000009"),
    event(2, "Validating training file: file-train"),
    event(3, "Files validated, moving job to queued state"),
    event(4, "Fine-tuning job started"),
    event(5, "Checkpoint created at step 50", step=50),
    event(6, "The worker was killed; going on from step 50", level="warn", step=50),
    event(7, "Resumed from step 50", step=50, attempt=2),
    event(8, "Checkpoint created at step 100", step=100),
]

QUESTIONS = ("Where do you live?", "What do you eat?", "Can you sing?")


def samples(steps):
    """What was answered at each evaluation so far."""
    prompts = [
        {
            "prompt": f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
            "expected": f"Arr, {word}!",
        }
        for question, word in zip(QUESTIONS, ("aboard", "fish", "aye"), strict=True)
    ]
    answers = [
        {
            "step": step,
            "texts": [f"{'Arr' if step else 'As an AI'}: {question}" for question in QUESTIONS],
            "seconds": 0.4,
        }
        for step in (0, *range(20, steps + 1, 20))
    ]
    return {"object": "fine_tuning.job.samples", "prompts": prompts, "answers": answers}


def samples_of_runs(job):
    """What the base model and the run that is done have answered."""
    taken = samples(0)
    run = compared(job)["runs"][0]["id"]
    answers = [
        {"run": None, "step": 0, "texts": [f"As an AI: {each}" for each in QUESTIONS]},
        {"run": run, "step": 60, "texts": [f"Arr: {each}" for each in QUESTIONS]},
    ]
    return {**taken, "answers": answers}


LOG = "INFO gossamer.jobs: the lease is kept\nstep 143: loss 1.21\n"

REPORT = {
    "object": "file.report",
    "version": 2,
    "format": "messages",
    "unit": "line",
    "complete": True,
    "rows": {"read": 612, "used": 610, "bad": 2},
    "problems": [
        {"row": 17, "at": 17, "reason": "no assistant turn"},
        {"row": 402, "at": 402, "reason": "'messages' is empty"},
    ],
    "duplicates": 9,
    "duplicate_rows": [{"row": 20 + number, "at": 20 + number, "of": 1} for number in range(9)],
    "near_duplicates": 2,
    "near_duplicate_rows": [{"row": 90, "at": 90, "of": 4}, {"row": 91, "at": 91, "of": 4}],
    "repeated_answers": [{"text": "Arr, I cannot say.", "rows": 40}],
    "roles": {"system": 610, "user": 700, "assistant": 700},
    "system_prompts": 3,
    "ignored_columns": ["source"],
}


def tokens():
    """What the page's own route tells of the first rows; 14 of them are long."""
    usual = NormalDist(4.1, 0.6)
    short = [round(math.exp(usual.inv_cdf((n + 0.5) / 596))) for n in range(596)]
    lengths = Counter([*short, *range(1030, 1800, 55)])
    return {
        "object": "file.tokens",
        "is_all": True,
        "rows": 610,
        "lengths": sorted(lengths.items()),
        "tokens": 48_211,
        "learnt": 19_870,
        "short_answers": 1,
    }


OVERLAP = {"version": 2, "rows": 1, "prompts": 3, "listed": [{"row": 5, "at": 5}]}


def rows(start, count):
    """Rows as the model sees them; one of them cannot be used."""
    shown = []
    for number in range(start, min(612, start + count - 1) + 1):
        parts = [
            {"text": "<|user|> Where do you live? <|assistant|> ", "learnt": False},
            {"text": f"Aboard the Sloop, arr! ({number})", "learnt": True},
        ]
        row = {"at": number, "row": number, "problem": None, "parts": parts, "tokens": 31}
        if number == 17:
            row |= {"problem": "no assistant turn", "tokens": None}
        shown.append(row)
    return {"object": "list", "data": shown, "unit": "line", "has_more": start + count <= 612}


def file(number, name, status="processed", purpose="fine-tune", size=88_214):
    return {
        "id": f"file-{number:024d}",
        "object": "file",
        "bytes": size,
        "created_at": int(time.time()) - 3600 * 40 + number,
        "filename": name,
        "purpose": purpose,
        "status": status,
        "status_details": None,
    }


def checkpoints(job_id):
    """Two checkpoints, the newest first."""
    return [
        {
            "id": f"ftckpt_{step}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(time.time()) - 300 + step,
            "fine_tuning_job_id": job_id,
            "fine_tuned_model_checkpoint": f"ft:{MODEL}:default:pirate:aBcDeF09:ckpt-step-{step}",
            "step_number": step,
            "metrics": {"step": step, "train_loss": 1.4, "full_valid_loss": 1.5},
        }
        for step in (100, 50)
    ]
