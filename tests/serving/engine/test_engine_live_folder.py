"""Adapter folders that change while the engine runs."""

import shutil
import time

import torch
from engine_case import ask, ask_tokens, check_idle, hold_reading, refusal, standing_still
from safetensors.torch import load_file, save_file

from gossamer.errors import UnknownModelError
from gossamer.serving.core.messages import Failed

from tiny import make_lora

WAIT = 60


def test_a_folder_that_appears_is_usable_at_once(make_engine, tiny_model, tmp_path):
    engine = make_engine(tmp_path)
    assert isinstance(refusal(engine, adapter="new"), UnknownModelError)
    make_lora(tmp_path / "new", tiny_model, rank=4)
    assert [status.name for status in engine.adapters()] == ["new"]
    one = ask(engine, adapter="new")
    assert one.wait().finish_reason == "length"
    assert one.tokens != ask_tokens(engine, None)


def test_replaced_files_serve_new_requests_while_running_ones_keep_the_old(
    make_engine, tiny_model, tmp_path
):
    engine = make_engine(tmp_path)
    make_lora(tmp_path / "x", tiny_model, rank=4, seed=1)
    want_old = ask_tokens(engine, "x", max_tokens=300)
    running = ask(engine, adapter="x", max_tokens=300)
    while len(running.events) < 5:
        time.sleep(0.002)
    make_lora(tmp_path / "next", tiny_model, rank=8, seed=2)
    shutil.rmtree(tmp_path / "x")
    (tmp_path / "next").rename(tmp_path / "x")
    new = ask_tokens(engine, "x", max_tokens=30)
    running.wait()
    assert running.tokens == want_old
    assert new != want_old[:30]
    make_lora(tmp_path / "y", tiny_model, rank=8, seed=2)
    assert new == ask_tokens(engine, "y", max_tokens=30)
    check_idle(engine)


def test_another_scale_alone_is_another_adapter(make_engine, tiny_model, tmp_path):
    engine = make_engine(tmp_path)
    make_lora(tmp_path / "x", tiny_model, rank=4, alpha=4)
    before = ask_tokens(engine, "x", max_tokens=30)
    config = tmp_path / "x" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 40'))
    assert ask_tokens(engine, "x", max_tokens=30) != before


def test_deleted_files_do_not_disturb_who_runs(make_engine, tiny_model, tmp_path):
    engine = make_engine(tmp_path)
    make_lora(tmp_path / "x", tiny_model, rank=4)
    running = ask(engine, adapter="x", max_tokens=200)
    while not running.events:
        time.sleep(0.002)
    shutil.rmtree(tmp_path / "x")
    assert isinstance(refusal(engine, adapter="x"), UnknownModelError)
    assert running.wait().finish_reason == "length"


def test_an_adapter_deleted_while_it_waits_fails_alone(
    make_engine, tiny_model, tmp_path, monkeypatch
):
    engine = make_engine(tmp_path, max_running=1)
    make_lora(tmp_path / "x", tiny_model, rank=4)
    gate = hold_reading(monkeypatch)
    with standing_still(engine):
        one, other = ask(engine, adapter="x"), ask(engine)
        shutil.rmtree(tmp_path / "x")
    gate.set()
    assert isinstance(one.wait(), Failed)
    assert "x" in str(one.wait().error)
    assert other.wait().finish_reason == "length"


def test_a_zero_adapter_says_what_the_base_says(make_engine, tiny_model, tmp_path):
    engine = make_engine(tmp_path)
    folder = make_lora(tmp_path / "zero", tiny_model, rank=4)
    file = folder / "adapter_model.safetensors"
    tensors = {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    assert ask_tokens(engine, "zero", max_tokens=40) == ask_tokens(engine, None, max_tokens=40)


def test_a_tuned_model_and_its_alias_are_one_adapter_in_memory(make_engine, tiny_model, tmp_path):
    name = "ft:tiny:default:pirate:abcdefgh"
    make_lora(tmp_path / "jobs" / "one", tiny_model, rank=4)
    served = tmp_path / "served"
    served.mkdir()
    (served / name).symlink_to("../jobs/one")
    (served / "pirate").symlink_to(name)
    engine = make_engine(served)
    tokens = ask_tokens(engine, name)
    assert tokens != ask_tokens(engine, None)
    assert ask_tokens(engine, "pirate") == ask_tokens(engine, f"{name}:1") == tokens
    shown = {status.name: status for status in engine.adapters()}
    assert shown["pirate"].alias_of == name
    assert shown["pirate"].digest == shown[name].digest is not None
    assert engine.stats().adapters_resident == 1
    engine.load_adapter(name).result(WAIT)

    engine.unload_adapter("pirate").result(WAIT)
    assert isinstance(refusal(engine, adapter="pirate"), UnknownModelError)
    assert ask_tokens(engine, name) == tokens
    assert engine.load_adapter("pirate").result(WAIT).name == name
    assert ask_tokens(engine, "pirate") == tokens
    engine.unload_adapter(name).result(WAIT)
    assert isinstance(refusal(engine, adapter="pirate"), UnknownModelError)
    check_idle(engine)


def test_an_absent_tuned_model_is_unknown_and_not_a_wrong_weight(make_engine, tmp_path):
    engine = make_engine(tmp_path)
    for name in ("ft:tiny:default:pirate:abcdefgh", "ft:gpt-4o-mini:openai::7p4lURel"):
        assert isinstance(refusal(engine, adapter=name), UnknownModelError)
