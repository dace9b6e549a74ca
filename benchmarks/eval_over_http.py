"""Log-likelihoods of lm-evaluation-harness over HTTP against those of its own backend, in float32.

    tests/evaluation/run.sh .venv/bin/python   # makes build/eval, where the harness lies
    PYTHONPATH=src build/eval/bin/python benchmarks/eval_over_http.py --model smollm2-135m \
        --adapters ADAPTERS --rows arc-easy-test.jsonl --output benchmarks/results/...

Each row's choices (`the correct answer is answer1`, ...) are scored by `local-completions`, which
asks `gossamer serve`, and by `hf`, which loads the base and the adapter with transformers and PEFT:
for the base and for each adapter of the folder. Reported are the largest difference of a
log-likelihood and in how many rows both choose the same.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

from common import describe_machine
from gossamer import tuners  # noqa: F401  (PEFT then knows our kinds of adapters)
from gossamer.basemodel.find import resolve
from gossamer.serving.client.child_server import child_server

TASK = """
task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}\\n\\n"
doc_to_target: right
doc_to_choice: choices
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def main() -> None:
    """Score the base and all adapters both ways, and print how they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--adapters", type=Path, required=True, help="a folder of adapters")
    parser.add_argument("--rows", type=Path, required=True, help="prompt, answer; JSON lines")
    parser.add_argument("--num-rows", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    model = resolve(args.model)
    names = [
        None,
        *sorted(path.parent.name for path in args.adapters.glob("*/adapter_config.json")),
    ]
    with tempfile.TemporaryDirectory() as folder:
        task = write_task(Path(folder), args.rows, args.num_rows)
        options = ["--dtype", "float32", "--device", "cpu", "--threads", str(args.threads)]
        with child_server(str(model), args.adapters, options) as address:
            rows = [compared(name, model, args.adapters, address, task) for name in names]
    report = {"machine": describe_machine(), "num_rows": args.num_rows, "results": rows}
    print("| model | largest difference | same choice | accuracy |\n| --- | --- | --- | --- |")
    for row in rows:
        print("| {model} | {largest:.1e} | {same} of {rows} | {accuracy:.3f} |".format(**row))
    if args.output is not None:
        args.output.write_text(json.dumps(report, indent=1) + "\n")


def write_task(folder: Path, source: Path, count: int) -> Path:
    """Write the rows and the task that asks for their choices."""
    rows = []
    for line in source.read_text().splitlines()[:count]:
        row = json.loads(line)
        names = list(dict.fromkeys(re.findall(r"Answer(\d)", row["prompt"])))
        choices = [f"the correct answer is answer{name}" for name in names]
        right = choices.index(f"the correct answer is {row['answer']}")
        rows.append({"prompt": row["prompt"], "choices": choices, "right": right})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))
    return folder / "task.yaml"


def compared(
    name: str | None, model: Path, adapters: Path, address: str, task: Path
) -> dict[str, Any]:
    """Score one model both ways."""
    served = {
        "base_url": f"{address}/v1/completions",
        "model": name or model.name,
        "tokenizer": str(model),
        "max_length": 1024,
    }
    loaded = {"pretrained": str(model), "dtype": "float32", "device": "cpu"}
    if name is not None:
        loaded["peft"] = str(adapters / name)
    ours, theirs = asked("local-completions", served, task), asked("hf", loaded, task)
    differences = [
        abs(one - other)
        for mine, other_row in zip(ours, theirs, strict=True)
        for one, other in zip(mine["said"], other_row["said"], strict=True)
    ]
    same = [
        mine["said"].index(max(mine["said"])) == other["said"].index(max(other["said"]))
        for mine, other in zip(ours, theirs, strict=True)
    ]
    return {
        "model": name or "base",
        "largest": max(differences),
        "same": sum(same),
        "rows": len(same),
        "accuracy": sum(row["acc"] for row in ours) / len(ours),
        "accuracy_hf": sum(row["acc"] for row in theirs) / len(theirs),
    }


def asked(backend: str, options: dict[str, Any], task: Path) -> list[dict[str, Any]]:
    """What a backend says of each row."""
    found = lm_eval.simple_evaluate(
        model=backend,
        model_args=options,
        tasks=[str(task)],
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    (samples,) = found["samples"].values()
    return [
        {"said": [float(each[0][0]) for each in row["resps"]], "acc": row["acc"]}
        for row in sorted(samples, key=lambda row: row["doc_id"])
    ]


if __name__ == "__main__":
    main()
