"""Whole comparisons on the tiny model: table, plots, refusals, failures, going on."""

import json
import re

import pytest
from runs import step_losses

from gossamer.errors import GossamerError, SettingError
from gossamer.training.comparison.jobs import carry_out
from gossamer.training.comparison.progress import ComparisonProgress
from gossamer.training.comparison.results import table
from gossamer.training.evaluation import Evaluation

pytestmark = pytest.mark.usefixtures("here")
FAST = "learning_rate=3e-3"


class Log(ComparisonProgress):
    """Keeps what would be shown, and can stop like Ctrl-C after some events of a kind."""

    def __init__(self, stop_after=None):
        super().__init__(show=False)
        self.lines, self.events, self._stop = [], [], stop_after

    def note(self, text):
        self.lines.append(text)

    def hear(self, event):
        super().hear(event)
        self.events.append(event["event"])
        if self._stop and self.events.count(self._stop[0]) == self._stop[1]:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(compared, all_here, tmp_path_factory):
    names = [f"lora:rank=4,{FAST}", f"full:{FAST}"]
    output = tmp_path_factory.mktemp("finished") / "out"
    with all_here(pictures=True):
        return compared(output, methods=names, seeds=[0, 1]), output


@pytest.fixture(scope="module")
def base_alone(compared, all_here, tmp_path_factory):
    """A comparison of no method, and its folder."""
    output = tmp_path_factory.mktemp("base") / "out"
    with all_here():
        return compared(output, methods="none", score="exact"), output


@pytest.fixture(scope="module")
def whole(compared, all_here, tmp_path_factory):
    """One that nothing stops, and its folder."""
    output = tmp_path_factory.mktemp("whole") / "out"
    with all_here():
        return compared(output, methods=f"lora:{FAST}"), output


def test_every_method_is_trained_on_the_same_rows_and_scored(finished):
    comparison, _ = finished
    lora, full = comparison.entries
    assert [entry.label for entry in comparison.entries] == [
        f"lora:rank=4,{FAST}",
        f"full:{FAST}",
    ]
    assert comparison.score == "last-number"
    assert comparison.base["rows"] == 10
    assert set(lora.runs) == set(full.runs) == {0, 1}
    for entry in comparison.entries:
        assert {run["steps"] for run in entry.runs.values()} == {6}
        assert entry.loss.value < comparison.base["loss"] - 0.5
        assert entry.loss.spread > 0
        for run in entry.runs.values():
            assert run["peak_memory"] > 50e6
            assert 0 < run["median_step_seconds"] <= run["seconds"]
            assert run["learning_rate"] == 3e-3
    assert {run["tokens"] for run in lora.runs.values()} != {0}
    for seed in (0, 1):
        assert lora.runs[seed]["tokens"] == full.runs[seed]["tokens"]
    assert full.trainable.value > lora.trainable.value
    assert not comparison.failed


def test_all_models_answer_the_same_prompts_where_samples_are_wanted(small, tmp_path):
    run = {"batch_size": 4, "save_every": 2, "samples": 2}
    small(methods=["lora:rank=4", "prefix_tuning"], score="loss", run=run)
    jobs = tmp_path / "out" / "jobs"
    taken = {
        name: json.loads((jobs / name / "samples.json").read_text())
        for name in ("base", "lora-rank-4-seed0", "prefix_tuning-seed0")
    }
    prompts = taken["base"]["prompts"]
    assert [each["expected"] for each in prompts] == ["It is 1.", "It is 2."]
    assert all("0 + 1?" in each["prompts"][0]["prompt"] for each in taken.values())
    assert all(each["prompts"] == prompts for each in taken.values())
    assert all(len(each["texts"]) == 2 for each in taken.values())
    assert not (jobs / "plan" / "samples.json").exists()


def test_results_table_and_plots_are_written_and_agree(finished):
    comparison, output = finished
    stored = json.loads((output / "results.json").read_text())
    assert [entry["label"] for entry in stored["entries"]] == [
        entry.label for entry in comparison.entries
    ]
    text = (output / "table.md").read_text()
    assert table(comparison) in text
    for entry, record in zip(comparison.entries, stored["entries"], strict=True):
        line = next(line for line in text.splitlines() if f"`{entry.label}`" in line)
        assert record["loss"]["value"] == entry.loss.value
        assert f"{entry.loss.value:.4f} ± {entry.loss.spread:.4f}" in line
        assert f"{round(entry.trainable.value):,} (" in line
    assert f"{comparison.base['loss']:.4f}" in text
    for name in ("scores.png", "curves.png"):
        assert f"]({name})" in text
        content = (output / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000


def test_each_result_is_an_ordinary_run_folder(finished):
    _, output = finished
    folders = sorted(path.name for path in (output / "runs").iterdir())
    assert folders == [
        f"{name}-seed{seed}"
        for name in ("full-learning_rate-3e-3", "lora-rank-4-learning_rate-3e-3")
        for seed in (0, 1)
    ]
    lora = output / "runs" / folders[2]
    assert (lora / "adapter_config.json").is_file()
    assert len(step_losses(lora)) == 6
    # Nothing is left to resume, and checkpoints of whole models are large.
    assert not (lora / "checkpoints").exists()


def test_the_best_of_several_rates_is_told_beside_the_others(small, tmp_path):
    comparison = small(methods=["lora:learning_rate=[1e-6,3e-3]", "full:learning_rate=3e-3"])
    slow, fast, full = comparison.entries
    assert fast.loss.value < slow.loss.value
    assert [comparison.is_best(entry) for entry in (slow, fast, full)] == [False, True, True]
    lines = table(comparison).splitlines()
    assert [line.partition("|")[2].partition("|")[0].strip() for line in lines[3:]] == [
        "`lora:learning_rate=1e-6`",
        "`lora:learning_rate=3e-3` **best rate**",
        "`full:learning_rate=3e-3`",
    ]
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [entry["best_rate"] for entry in stored["entries"]] == [False, True, True]
    assert "Best rate: the one with the lowest" in (tmp_path / "out" / "table.md").read_text()


def test_asked_again_nothing_is_done_again(whole, compared, monkeypatch):
    first, output = whole
    monkeypatch.setattr(
        "gossamer.training.comparison.compare.run_job", lambda *job: pytest.fail("a job was run")
    )
    assert compared(output, methods=f"lora:{FAST}").as_record() == first.as_record()


def test_the_base_model_alone(base_alone):
    comparison, _ = base_alone
    assert comparison.entries == []
    assert comparison.score == "exact"
    assert "base model" in table(comparison)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [1]}, "seeds=[0], not [1]"),
        ({"methods": ["lora", "dora"]}, "methods=['none'], not ['lora', 'dora']"),
        ({"budget": "steps=7"}, "budget=['steps=6'], not ['steps=7']"),
        ({"max_new_tokens": 9}, "max_new_tokens=8, not 9"),
        ({"run": {"batch_size": 2}}, "run={'batch_size': 4"),
    ],
)
def test_another_comparison_in_the_same_folder_is_refused(base_alone, compared, change, message):
    _, output = base_alone
    with pytest.raises(SettingError) as error:
        compared(output, **{"methods": "none", "score": "exact", **change})
    assert message in str(error.value)


def test_changed_data_is_refused(small, sums, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(sums[1].read_text())
    screen = Log(stop_after=("step", 1))
    with pytest.raises(KeyboardInterrupt):
        small(methods="lora", eval=rows, screen=screen)
    rows.write_text(sums[0].read_text())
    with pytest.raises(SettingError, match=r"rows.jsonl' has changed since the comparison"):
        small(methods="lora", eval=rows)


def test_settings_edited_by_hand_are_refused(small, tmp_path):
    screen = Log(stop_after=("step", 1))
    with pytest.raises(KeyboardInterrupt):
        small(methods="lora", screen=screen)
    record = tmp_path / "out" / "compare.yaml"
    record.write_text(record.read_text().replace("steps=6", "steps=3"))
    with pytest.raises(SettingError, match="began with 6 steps a run, now they are 3"):
        small(methods="lora", budget="steps=3")


def test_a_folder_with_something_else_is_refused(small, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingError, match="is not empty and holds no comparison"):
        small(methods="lora")


def test_a_method_that_fails_is_recorded_and_the_others_go_on(small, monkeypatch):
    screen = Log()
    methods = [
        "lora:target_modules=[nowhere]",
        "lora:learning_rate=1e30,scheduler=constant",
        "dora",
    ]
    comparison = small(methods=methods, screen=screen)
    wrong, diverged, dora = comparison.entries
    assert "'nowhere' matches no layer" in wrong.failures[0]
    assert "became" in diverged.failures[0]
    assert "learning_rate" in diverged.failures[0]
    assert set(dora.runs) == {0}
    assert comparison.failed
    text = table(comparison)
    assert f"- `{wrong.label}`, seed 0: {wrong.failures[0]}" in text
    assert re.search(r"`lora:target_modules=\[nowhere\]` \|.*failed", text)
    assert any("failed: " in line for line in screen.lines)


# Each model is scored in four events; the second time is after the loss, before the replies.
@pytest.mark.parametrize("moment", [("step", 3), ("scoring", 6)])
def test_stopped_and_asked_again_it_goes_on_to_the_same_result(small, whole, tmp_path, moment):
    undisturbed, folder_of_whole = whole
    screen = Log(stop_after=moment)
    with pytest.raises(KeyboardInterrupt, match="the same command"):
        small(methods=f"lora:{FAST}", screen=screen)
    screen = Log()
    again = small(methods=f"lora:{FAST}", screen=screen)
    assert screen.events.count("step") == (4 if moment[0] == "step" else 0)
    for name in ("value", "loss", "right"):
        assert (
            again.entries[0].runs[0]["evaluation"][name]
            == undisturbed.entries[0].runs[0]["evaluation"][name]
        )
    folder = f"runs/lora-{FAST.replace('=', '-')}-seed0"
    assert step_losses(tmp_path / "out" / folder) == step_losses(folder_of_whole / folder)


def test_the_parameters_budget_chooses_the_largest_rank_below(small):
    comparison = small(methods=["lora", "dora"], budget=["params=9000", "steps=1"])
    for entry in comparison.entries:
        run = entry.runs[0]
        rank = run["method_settings"]["rank"]
        per_rank = 2484
        assert run["trainable"] <= 9000
        assert run["trainable"] + per_rank > 9000
        assert rank >= 1
    lora = comparison.entries[0].runs[0]
    assert (lora["method_settings"]["rank"], lora["trainable"]) == (3, 3 * per_rank)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["full", "lora"], "method 'full' has no setting from which"),
        (["lora:rank=4"], "'lora:rank=4' fixes rank, which the budget is to choose"),
        (["lora:learning_rate=1e-3"], "the smallest 'lora:learning_rate=1e-3' trains more"),
    ],
)
def test_what_cannot_be_scaled_is_refused_by_name(small, methods, message):
    with pytest.raises(GossamerError, match="--budget params") as error:
        small(methods=methods, budget=["params=100", "steps=1"])
    assert message in str(error.value)


def test_the_minutes_budget_gives_steps_by_each_methods_own_speed(small, monkeypatch):
    def timed(job, settings, folder, tell):
        return {"step_seconds": {"lora": 0.6, "full": 1.2}[job.label.split(":")[0]]}

    monkeypatch.setitem(carry_out.__globals__["_KINDS"], "time", timed)
    comparison = small(methods=["lora", "full"], budget="minutes=0.05")
    assert [entry.runs[0]["steps"] for entry in comparison.entries] == [5, 2]


def test_the_speed_of_a_method_is_measured(small, tmp_path):
    comparison = small(methods=["lora"], budget="minutes=0.002")
    timed = json.loads((tmp_path / "out/jobs/lora-timing/outcome.json").read_text())
    steps = comparison.entries[0].runs[0]["steps"]
    assert steps == max(1, int(0.12 / timed["step_seconds"]))
    assert not (tmp_path / "out/jobs/lora-timing/run").exists()


def test_the_speed_of_a_method_with_a_long_first_stage_is_measured(small, monkeypatch):
    monkeypatch.setitem(carry_out.__globals__, "TIMED_STEPS", 4)
    method = "smt:selection=train,warmup_steps=4,block_size=16,attention_ratio=0.05"
    [entry] = small(methods=[method], budget="minutes=0.1").entries
    assert not entry.failures
    assert entry.runs[0]["steps"] > 4


def test_rows_with_options_have_a_column_for_the_likeliest(small, tmp_path):
    rows = tmp_path / "options.jsonl"
    made = [{"prompt": "?", "answer": a, "options": ["yes", "no"]} for a in ("yes", "no")]
    rows.write_text("".join(json.dumps(row) + "\n" for row in made))
    comparison = small(methods=["lora"], eval=rows)
    assert "| right choice | likeliest option right |" in table(comparison)
    assert isinstance(Evaluation(**comparison.base).likeliest, float)
