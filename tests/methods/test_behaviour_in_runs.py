"""Every registered method through SFTTrainer: it learns, and resumes as if nothing had happened."""

import json

import pytest
from cases import CASES
from method_helpers import base_folder
from safetensors.torch import load_file

from gossamer import methods
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import read_metrics, train_records
from gossamer.training.run import tune

STEPS, STOP = 4, 2


class Interrupt(Listener):
    """Stops the process dead, as far as the run can tell."""

    def step(self, record):
        if record["step"] == STOP + 1:
            raise RuntimeError("stopped here")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    pairs = [{"prompt": f"{i} + 1 =", "completion": f" {i + 1}"} for i in range(4)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    # Half of such a short run's time, and tested elsewhere.
    monkeypatch.setattr("gossamer.training.run.draw_loss_curve", lambda *args, **options: None)


@pytest.mark.parametrize("name", methods.names())
def test_it_learns_and_resumes_exactly(name, rows, tmp_path):
    """The same four rows in every step; stopped after two steps and resumed, all is the same."""
    case, method = CASES[name], methods.find(name)
    for module in method.extra_modules:
        pytest.importorskip(module)

    def run(folder, **options):
        options.setdefault("listener", Listener())
        return tune(
            base_folder(case.model_type),
            rows,
            tmp_path / folder,
            method=name,
            max_steps=STEPS,
            batch_size=4,
            learning_rate=case.rate,
            warmup=0,
            save_every=STOP,
            save_total_limit=9,
            dtype="float32",
            **case.settings,
            **options,
        )

    whole = run("whole")
    assert whole.losses[-1] < whole.losses[0]
    with pytest.raises(RuntimeError, match="stopped here"):
        run("parts", listener=Interrupt())
    parts = tune(output=tmp_path / "parts", resume=True, listener=Listener())
    assert parts.losses == whole.losses
    assert len(train_records(read_metrics(tmp_path / "parts"))) == STEPS
    file = "model.safetensors" if method.kind == "model" else "adapter_model.safetensors"
    one, other = (load_file(tmp_path / part / file) for part in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all((one[key] == other[key]).all() for key in one)
    card = (tmp_path / "whole" / "README.md").read_text()
    assert (method.tuner_module or "") in card
    assert ("gossamer serve" in card) == (method.kind not in ("model", "other"))
