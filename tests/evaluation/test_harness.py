"""Our backend gives lm-evaluation-harness what its own backend for transformers gives it."""

import json

import pytest

lm_eval = pytest.importorskip("lm_eval")

from gossamer.cli.main import main  # noqa: E402

ROWS = [
    {"question": f"What comes after {n}?", "answers": [f" {n + 1}", f" {n}0", " many"], "right": 0}
    for n in range(6)
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {output_type}
doc_to_text: "{{{{question}}}}"
doc_to_target: {target}
{more}
"""
MORE = {
    "multiple_choice": ("right", "doc_to_choice: answers\nmetric_list: [{metric: acc}]"),
    "loglikelihood_rolling": (
        '"{{question}}"',
        "metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]",
    ),
    "generate_until": (
        '"{{answers[0]}}"',
        'generation_kwargs: {until: ["?"], max_gen_toks: 9}\nmetric_list: [{metric: exact_match}]',
    ),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found = []
    for output_type, (target, more) in MORE.items():
        fields = {"name": f"own_{output_type}", "rows": rows, "output_type": output_type}
        found.append(folder / f"{output_type}.yaml")
        found[-1].write_text(TASK.format(target=target, more=more, **fields))
    return [str(path) for path in found]


def asked(backend, options, tasks, **more):
    """What a backend has answered, by task and row."""
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model=backend,
        model_args=options,
        tasks=list(tasks),
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        **more,
    )
    return {
        task: [sample["resps"] for sample in sorted(samples, key=lambda s: s["doc_id"])]
        for task, samples in results["samples"].items()
    }


def flat(value):
    if isinstance(value, list | tuple):
        return [each for part in value for each in flat(part)]
    return [value]


@pytest.mark.parametrize("chat", [False, True])
def test_every_kind_of_task_gets_what_transformers_say(
    llm, tiny_model, adapters_to_score, tasks, chat
):
    from gossamer.evaluation.backend import Answers, GossamerLM
    from gossamer.evaluation.scorer import Scorer

    answers = Answers(Scorer(llm, [None, "a"]))
    for name in (None, "a"):
        backend = GossamerLM(answers, name, llm.engine.tokenizer)
        own = asked(backend, None, tasks, apply_chat_template=chat)
        options = {"pretrained": str(tiny_model), "dtype": "float32", "device": "cpu"}
        if name is not None:
            options["peft"] = str(adapters_to_score / name)
        theirs = asked("hf", options, tasks, apply_chat_template=chat, batch_size=1)
        assert own.keys() == theirs.keys()
        for task, rows in own.items():
            for one, other in zip(flat(rows), flat(theirs[task]), strict=True):
                if isinstance(one, float) or not isinstance(other, str):
                    assert float(one) == pytest.approx(float(other), abs=1e-3)
                else:
                    assert str(one) == str(other)


def test_each_repeat_of_a_prompt_is_drawn(llm):
    from lm_eval.api.instance import Instance

    from gossamer.evaluation.backend import Answers, GossamerLM
    from gossamer.evaluation.scorer import Scorer

    def drawn(**options):
        given = {"until": [], "max_gen_toks": 8, **options}
        one = Instance("generate_until", {}, ("What?", given), 0)
        return backend.generate_until([one] * 4)

    backend = GossamerLM(Answers(Scorer(llm, [None])), None, llm.engine.tokenizer)
    several = drawn(do_sample=True, temperature=1.0)
    assert len(set(several)) > 1
    assert drawn(do_sample=True, temperature=1.0) == several
    assert len(set(drawn())) == 1


def test_the_command_prints_and_writes_a_table(
    tiny_model, adapters_to_score, tasks, tmp_path, capsys
):
    arguments = ["--adapters", str(adapters_to_score), "--memory", "0.05", "--device", "cpu"]
    output = ["--output", str(tmp_path / "scores"), "--threads", "1"]
    assert main(["eval", str(tiny_model), *arguments, "--tasks", *tasks, *output]) == 0
    printed = capsys.readouterr().out
    told = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert [name in printed for name in told["models"]] == [True] * 3
    assert {score["task"] for score in told["scores"]} == {f"own_{kind}" for kind in MORE}
    assert (tmp_path / "scores" / "scores.md").read_text().count("\n") == 5
    assert (tmp_path / "scores" / "scores.png").exists()


def test_a_task_that_is_not_there_is_named(tiny_model, capsys):
    assert main(["eval", str(tiny_model), "--tasks", "nowhere.yaml"]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert main(["eval", str(tiny_model), "--tasks", "arc_eazy"]) == 2
    assert "did you mean 'arc_easy'" in capsys.readouterr().err


def test_a_folder_without_adapters_is_named(tiny_model, tasks, tmp_path, capsys):
    asked = ["--adapters", str(tmp_path), "--tasks", tasks[0]]
    assert main(["eval", str(tiny_model), *asked]) == 1
    assert "holds no adapter to score" in capsys.readouterr().err


def test_a_run_and_a_comparison_score_what_they_have_made(tiny_model, tmp_path, tasks, capsys):
    rows = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"What is {i}?", "completion": f"A number: {i}."} for i in range(12)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ["--eval-tasks", *tasks[:1], "--eval-limit", "2"]
    base = ["--model", str(tiny_model), "--data", str(rows)]
    run = tmp_path / "run"
    assert main(["tune", *base, "--output", str(run), "--max-steps", "1", *asked]) == 0
    found = json.loads((run / "scores" / "scores.json").read_text())
    assert found["models"][1:] == ["run"]
    assert found["settings"]["limit"] == 2
    wrong = ["--output", str(tmp_path / "other"), "--eval-tasks", "none.yaml"]
    assert main(["tune", *base, *wrong]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    compared = tmp_path / "compared"
    more = ["--eval", str(rows), "--methods", "lora", "ia3", "--budget", "steps=1"]
    assert main(["compare", *base, *more, "--output", str(compared), *asked]) == 0
    found = json.loads((compared / "scores" / "scores.json").read_text())
    assert len(found["models"]) == 3
