"""Adapters that cannot be served: one clear line, the right status, and the server goes on."""

import json

import httpx
import pytest
import torch
from live_server import live
from safetensors.torch import load_file, save_file

from gossamer.serving.engine.build import build_engine
from gossamer.serving.settings import ServeSettings

from tiny import make_lora, make_tiny_model

WEIGHTS = "adapter_model.safetensors"


def truncated(folder, model):
    path = make_lora(folder, model, rank=4) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-64])


def pickled(folder, model):
    path = make_lora(folder, model, rank=4) / WEIGHTS
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()


def not_a_number(folder, model):
    path = make_lora(folder, model, rank=4) / WEIGHTS
    tensors = load_file(path)
    tensors[next(iter(tensors))][0, 0] = float("nan")
    save_file(tensors, path)


def for_another_base(folder, model):
    other = make_tiny_model(folder.parent.parent / "other", hidden_size=32, head_dim=8)
    make_lora(folder, other, rank=4)


def rank_zero(folder, model):
    config = make_lora(folder, model, rank=4) / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "r": 0}))


BAD = {
    "truncated": (truncated, 422, "truncated"),
    "pickled": (pickled, 422, "can run code"),
    "not-a-number": (not_a_number, 422, "NaN"),
    "another-base": (for_another_base, 422, "base"),
    "rank-zero": (rank_zero, 422, "rank"),
    "dora": (lambda folder, model: make_lora(folder, model, rank=4, use_dora=True), 422, "DoRA"),
    "too-big": (lambda folder, model: make_lora(folder, model, rank=200), 400, "--memory"),
}


@pytest.fixture(scope="module")
def address(tiny_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("bad") / "adapters"
    for name, (make, _, _) in BAD.items():
        make(root / name, tiny_model)
    make_lora(root / "good", tiny_model, rank=4)
    # 80 blocks of 12,288 bytes: rank 4 takes four of them, rank 200 more than all.
    settings = ServeSettings(
        model=str(tiny_model), adapters=root, memory_gib=80 * 12288 / 1024**3, threads=1
    )
    engine = build_engine(settings)
    with live(engine) as (host, port):
        yield f"http://{host}:{port}"
    engine.shutdown()


def ask(address, model, *, stream=False):
    body = {"model": model, "prompt": "hello", "max_tokens": 3, "stream": stream}
    return httpx.post(f"{address}/v1/completions", json=body, timeout=30)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_adapter_is_refused_and_the_server_goes_on(address, name, stream):
    _, status, word = BAD[name]
    reply = ask(address, name, stream=stream)
    assert reply.status_code == status, reply.text
    message = reply.json()["error"]["message"]
    assert word.lower() in message.lower()
    assert name in message
    assert "\n" not in message
    assert "/adapters/" not in message, "a place on the server's disk"
    assert ask(address, "good").status_code == 200


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("good:0.5", 200, ""),
        ("good:0.5+nobody:0.5", 404, "nobody"),
        ("good:much", 400, "'much' is not a weight"),
        ("good+truncated:0.5", 422, "truncated"),
    ],
)
def test_adapters_with_weights(address, model, status, words):
    reply = ask(address, model)
    assert reply.status_code == status, reply.text
    assert words in reply.text
    if status == 200:
        assert reply.json()["model"] == model


def test_an_unknown_model_names_the_nearest(address):
    reply = ask(address, "god")
    assert reply.status_code == 404
    assert "did you mean 'good'" in reply.json()["error"]["message"]
