"""The harness scores our server over HTTP as it scores transformers in its own process."""

import json

import pytest

lm_eval = pytest.importorskip("lm_eval")

from gossamer.serving.client.child_server import child_server  # noqa: E402

KINDS = ["lora", "dora", "ia3", "houlsby"]
ROWS = [
    {"question": f"What is {n} and {n + 3}?", "answers": [f" {2 * n + 3}", f" {n}0", " many of it"]}
    for n in range(6)
]
TASK = """
task: arithmetic_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: 0
doc_to_choice: answers
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "task.yaml").write_text(TASK.format(rows=rows))
    return str(folder / "task.yaml")


def answers(backend, options, task):
    """The log-likelihoods of each row's choices, and which of them is right."""
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model=backend,
        model_args=options,
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    (samples,) = found["samples"].values()
    rows = sorted(samples, key=lambda row: row["doc_id"])
    said = [float(each[0][0]) for row in rows for each in row["resps"]]
    return said, [row["acc"] for row in rows]


def test_the_server_scores_as_transformers_do(kinds, task):
    family = kinds("llama")
    options = ["--memory", "0.05", "--threads", "1", "--device", "cpu"]
    with child_server(str(family.model), family.adapters, options) as address:
        different = []
        for name in (None, *KINDS):
            served = {
                "base_url": f"{address}/v1/completions",
                "model": name or family.model.name,
                "tokenizer": str(family.model),
                "max_length": 256,
                "num_concurrent": 2,
            }
            loaded = {"pretrained": str(family.model), "dtype": "float32", "device": "cpu"}
            if name is not None:
                loaded["peft"] = str(family.adapters / name)
            ours, right = answers("local-completions", served, task)
            theirs, also = answers("hf", loaded, task)
            assert ours == pytest.approx(theirs, abs=1e-3)
            assert right == also
            different.append(ours)
    # Each of the models says something of its own.
    assert len({tuple(round(value, 3) for value in each) for each in different}) == len(different)
