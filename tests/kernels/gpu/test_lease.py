"""The run on a rented GPU: sections that fail or no longer fit, bars, and launches on copies."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from launches.operations import CASES, TINY
from triton.runtime.interpreter import InterpretedFunction

from lease_sections.bars import BARS, table
from lease_sections.frame import Lease, Section, run_all
from lease_sections.mirror import mirrored
from lease_sections.plan import SECTIONS

ROOT = Path(__file__).parents[3]
WITHOUT_PEERS = [section for section in SECTIONS if section.name != "peers"]


@pytest.fixture
def lease(tmp_path):
    return Lease(torch.device("cuda"), False, tmp_path, time.monotonic() + 60)


def fails(lease):
    raise ValueError("no such thing")


def test_one_section_that_fails_stops_no_other(lease, capsys):
    run_all(
        [
            Section("broken", 1, fails, str),
            Section("long", 61, lambda lease: {}, str),
            Section("fine", 1, lambda lease: {"us": 3}, lambda found: f"{found['us']} us"),
        ],
        lease,
    )
    kept = json.loads((lease.output / "result.json").read_text())
    assert {name: entry["state"] for name, entry in kept.items()} == {
        "broken": "failed", "long": "skipped", "fine": "done",
    }  # fmt: skip
    assert "no such thing" in kept["broken"]["traceback"]
    assert kept["fine"]["found"] == {"us": 3}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["broken", "failed"], ["long", "skipped"], ["fine", "done"],
    ]  # fmt: skip
    assert lines[2].endswith("3 us")


def test_the_plan_fits_into_ten_minutes():
    assert sum(section.seconds for section in SECTIONS) <= 570
    assert len({section.name for section in SECTIONS}) == len(SECTIONS)


def layer(us, gb_s=None):
    return {"layer": {"us": us, "gb_s": gb_s}}


def test_bars_are_reached_missed_or_not_measured(lease):
    lease.results = {
        "ceilings": {"found": {"read_gb_s": 3000.0}},
        "lora": {"found": {"gossamer": {"64 x r16": layer(100, 2000), "64 mixed": layer(100)}}},
        "peers": {"found": {"sglang csgmv": {"64 x r16": layer(96), "64 mixed": layer(105)}}},
    }
    states = dict(zip((bar.text for bar in BARS), table(lease).splitlines(), strict=True))
    by_start = {text[:12]: line for text, line in states.items()}
    assert by_start["adapter kern"].startswith("MISSED")
    assert by_start["adapter kern"].endswith("67% of 3000 GB/s")
    assert by_start["equal ranks:"].startswith("reached")
    assert by_start["kernels corr"].startswith("not measured")
    assert states["mixed ranks: 1.1 of csgmv's speed"].startswith("MISSED")
    assert states["mixed ranks: 1.5 of vLLM's speed"].startswith("not measured")


def test_figures_of_a_dry_run_reach_nothing(lease):
    lease.device = torch.device("cpu")
    lease.results = {"correctness": {"found": {"failed": [], "not_run": []}}}
    assert all(line.startswith("not measured") for line in table(lease).splitlines())


def run_lease(tmp_path, *arguments):
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/gpu/lease.py", "--output", tmp_path, *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, tmp_path / "result.json"


@pytest.mark.slow
def test_every_section_runs_at_toy_sizes(tmp_path):
    done, kept = run_lease(tmp_path, "--dry", "--only", *(s.name for s in WITHOUT_PEERS))
    assert done.returncode == 0, done.stdout + done.stderr
    states = {name: entry.get("state") for name, entry in json.loads(kept.read_text()).items()}
    assert states == {s.name: "done" for s in WITHOUT_PEERS} | {"bars": None}


@pytest.mark.slow
def test_what_sections_launch_at_full_size_compiles(tmp_path):
    done, _ = run_lease(tmp_path, "--compile-for", "90", "--only", "ceilings", "lora", "attention")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_an_unknown_section_is_named(tmp_path):
    done, _ = run_lease(tmp_path, "--dry", "--only", "lora", "weather")
    assert done.returncode == 2
    assert "no section 'weather'; there are ceilings, correctness" in done.stderr


@pytest.mark.parametrize("name", ["gate", "attention_decode"])
def test_a_launch_on_copies_does_what_it_does_in_place(name, monkeypatch):
    results = []
    for on_copies in (False, True):
        if on_copies:
            monkeypatch.setattr(
                InterpretedFunction, "run", mirrored(InterpretedFunction.run, "cpu")
            )
        case = CASES[name](TINY)
        generator = torch.Generator().manual_seed(0)
        for states in case.stays["states"] if name != "gate" else [case.stays["states"]]:
            states.normal_(generator=generator)
        results.append((case.body(), case.stays.get("pool", torch.zeros(0))))
    (plain, plain_pool), (copied, copied_pool) = results
    assert plain.abs().sum() > 0
    assert torch.equal(plain, copied)
    assert torch.equal(plain_pool, copied_pool)
