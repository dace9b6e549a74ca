"""Sections of the run on a rented GPU one by one, at toy sizes, and the bars that read them."""

import gc
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

from lease_sections.bars import table
from lease_sections.frame import Lease, Section, run_all
from lease_sections.host_work import host
from lease_sections.lora_times import ours, says
from lease_sections.peft_requests import CONTINUOUS, peft
from lease_sections.unused_adapters import unused
from peers import gossamer_lora
from peers.work import TOY, Factors, Work

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def dry(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    return Lease(torch.device("cpu"), True, tmp_path, time.monotonic() + 60)


def line_of(text, **found):
    """The line of the bar that begins with `text`, where sections have found this on a GPU."""
    lease = Lease(torch.device("cuda"), False, Path(), 0.0)
    lease.results = {name: {"found": of} for name, of in found.items()}
    (line,) = [line for line in table(lease).splitlines() if line[14:].startswith(text)]
    return line


@pytest.mark.parametrize(
    ("cost", "same", "state"),
    [(0.01, True, "reached"), (0.011, True, "MISSED"), (0.0, False, "MISSED")],
)
def test_idle_adapters_may_cost_a_hundredth_and_no_graph(cost, same, state):
    line = line_of("LoRA on but unused", unused={"cost": cost, "same_graph": same})
    assert line.startswith(state)
    assert f"{cost:+.1%}" in line
    assert ("another graph" in line) is not same


@pytest.mark.parametrize(("ms", "state"), [(0.5, "reached"), (0.51, "MISSED")])
def test_half_a_millisecond_of_host_work_may_show(ms, state):
    line = line_of("0.5 ms of host work", host={"not_hidden_ms": ms})
    assert line.startswith(state)
    assert line.endswith(f"{ms:.2f} ms")


@pytest.mark.parametrize(("own", "state"), [(60.0, "reached"), (59.0, "MISSED")])
def test_thirty_times_the_requests_of_switching(own, state):
    rates = {"gossamer": own, "peft switching": 2.0, "peft adapter_names": 1.0}
    line = line_of("30 times", peft={"requests_per_s": rates})
    assert line.startswith(state)
    assert line.endswith("30x")


def test_launches_are_held_against_the_bandwidth_apart():
    def found(expand, shrink):
        groups = {"gate_up": {"expand": {"gb_s": expand}}, "down": {"shrink": {"gb_s": shrink}}}
        return {"gossamer": {"64 x r16": groups}}

    ceilings = {"read_gb_s": 1000.0}
    text = "of these, expand"
    assert line_of(text, lora=found(800.0, 900.0), ceilings=ceilings).startswith("reached")
    missed = line_of(text, lora=found(900.0, 790.0), ceilings=ceilings)
    assert missed.startswith("MISSED")
    assert missed.endswith("79%")


@pytest.mark.parametrize("text", ["of these", "LoRA on but", "0.5 ms of host", "30 times"])
def test_what_no_section_has_found_is_not_measured(text):
    assert line_of(text).startswith("not measured")


def test_memory_of_a_section_is_given_back_before_the_next(tmp_path):
    class Circle:
        pass

    seen = []

    def first(lease):
        circle = Circle()
        circle.itself = circle
        seen.append(weakref.ref(circle))
        return {}

    def second(lease):
        seen.append(seen[0]())
        return {}

    lease = Lease(torch.device("cpu"), True, tmp_path, time.monotonic() + 60)
    # What collects is the run, not chance.
    gc.disable()
    try:
        run_all([Section("first", 1, first, str), Section("second", 1, second, str)], lease)
    finally:
        gc.enable()
    assert seen[1:] == [None]


def test_shrink_and_expand_apart_are_the_operation():
    work = Work("two", (8, 4), 16)
    whole, apart = (
        gossamer_lora.prepare(Factors(TOY[0], work, torch.float16, "cpu")) for _ in range(2)
    )
    before = apart.y.clone()
    whole.launch()
    apart.parts["shrink"]()
    assert torch.equal(apart.y, before)
    apart.parts["expand"]()
    assert not torch.equal(apart.y, before)
    assert torch.equal(apart.y, whole.y)


def test_bytes_of_both_launches_are_those_of_all_rows():
    factors = Factors(TOY[0], Work("two", (8, 4), 16), torch.float16, "cpu")
    assert factors.part_bytes == {"shrink": 2 * 12 * 3 * 1024, "expand": 2 * 12 * 128}
    assert factors.least_bytes == sum(
        2 * rows.numel() for slot in (*factors.a, *factors.b) for rows in slot
    )


def test_a_step_beside_its_model_is_told_from_it(dry):
    found = host(dry)
    assert found["sequences"] == 3
    assert found["model_ms"] >= 1.0
    assert found["not_hidden_ms"] == pytest.approx(found["step_ms"] - found["model_ms"])
    assert all(found["host_ms"][part] > 0 for part in ("plan", "build", "sample"))


@pytest.mark.slow
def test_shrink_and_expand_are_timed_by_group(dry):
    groups = ours(dry)["gossamer"]["64 mixed"]
    for group in TOY:
        parts = [groups[group.name][part] for part in ("shrink", "expand")]
        assert sum(part["least_bytes"] for part in parts) == groups[group.name]["least_bytes"]
        assert all(part["us"] > 0 for part in parts)
    assert "64 mixed apart: qkv" in says({"gossamer": {"64 mixed": groups}})


@pytest.mark.slow
def test_steps_without_adapters_are_of_one_kind(dry):
    found = unused(dry)
    assert found["same_graph"]
    assert found["never_ms"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_peft_says_the_same_tokens(dry):
    found = peft(dry)
    assert found["same_tokens"] == 1.0
    assert found["resident"] == found["adapters"] == 5
    assert not found["why_not"]
    assert set(found["requests_per_s"]) == {
        "gossamer", "peft switching", "peft adapter_names", CONTINUOUS,
    }  # fmt: skip
