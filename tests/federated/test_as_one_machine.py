"""One client with all rows learns as one machine does; two clients begin with the same numbers."""

import pytest
import torch
from federated_runs import LOW_RANK, check_same, federate, settings_of
from runs import quiet_tune

from gossamer.federated.client import Learner
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.training.prepare import prepare

pytestmark = pytest.mark.usefixtures("no_pictures")
STEP = {"max_steps": 1, "batch_size": 48, "learning_rate": 3e-3}
"""All rows in one step, so that their order does not matter."""


def central(base, rows, output, **settings):
    """A run of one machine with a constant rate."""
    return quiet_tune(
        base, rows, output, **{**STEP, **LOW_RANK, "scheduler": "constant", "warmup": 0, **settings}
    )


@pytest.mark.parametrize(("aggregation", "frozen"), [("ffa", "AA"), ("rolora", "AB")])
def test_a_factor_that_does_not_learn_is_frozen(
    aggregation, frozen, tiny_model, rows, tmp_path, monkeypatch
):
    run = federate(
        tiny_model, rows, tmp_path / "run", clients=1, rounds=2, aggregation=aggregation, **STEP
    )
    made = PeftMethod.prepare
    before = None
    for number, part in enumerate(frozen):

        def prepared(self, model, context, part=part):
            model = made(self, model, context)
            for name, parameter in model.named_parameters():
                if f"lora_{part}." in name:
                    parameter.requires_grad = False
            return model

        monkeypatch.setattr(PeftMethod, "prepare", prepared)
        start = {} if before is None else {"start_from": str(before.output)}
        before = central(tiny_model, rows, tmp_path / f"alone-{number}", **start)
    check_same(before, run)


@pytest.mark.parametrize(
    ("method", "steps", "more"),
    [("slora", 2, {"sparse_share": 0.5, "density": 0.05}), ("federa", 1, {})],
)
def test_other_methods_learn_as_one_machine_does(method, steps, more, tiny_model, rows, tmp_path):
    run = federate(
        tiny_model, rows, tmp_path / "run", clients=1, rounds=steps, method=method,
        method_settings={**LOW_RANK, **more}, **STEP,
    )  # fmt: skip
    alone = central(
        tiny_model, rows, tmp_path / "alone", method=method, **{**more, "max_steps": steps}
    )
    check_same(alone, run)


def test_every_client_draws_the_same_mask_and_start(tiny_model, rows, tmp_path):
    made = []
    for number in range(2):
        # Each is a process of its own, which has drawn other numbers before.
        torch.manual_seed(number)
        methods = {**LOW_RANK, "sparse_share": 0.5, "density": 0.05}
        settings = settings_of(
            tiny_model, rows, tmp_path / "run", method="slora", method_settings=methods
        )
        learner = Learner(prepare(settings), rounds=2)
        indices = {n: b for n, b in learner.model.named_buffers() if "slora_index" in n}
        learner.enter(1)
        made.append((indices, learner.tensors()))
    (masks, starts), (other_masks, other_starts) = made
    assert masks
    for one, other in ((masks, other_masks), (starts, other_starts)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
