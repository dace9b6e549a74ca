"""`gossamer plan`: its arithmetic is what the engine's pool really takes."""

import pytest
import torch

from gossamer.cli.main import main
from gossamer.cli.parts.tables import format_bytes
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams
from gossamer.serving.packing.capacity import PoolSizes
from gossamer.serving.packing.low_rank import cost_of_rank
from gossamer.serving.runner.model_shape import base_sizes

from tiny import make_lora

ONE = SamplingParams(max_tokens=1, temperature=0)
BLOCK_TOKENS = 16


def plan(*arguments):
    return main(["plan", *map(str, arguments)])


@pytest.fixture(scope="module")
def sizes(tiny_model):
    return base_sizes(tiny_model)


@pytest.mark.parametrize(
    ("options", "targets", "width", "rows"),
    [
        ({"rank": 8}, None, 4, "as-saved"),
        ({"rank": 3, "targets": ("q_proj", "v_proj")}, ("q_proj", "v_proj"), 4, "as-saved"),
        ({"rank": 5, "dtype": torch.bfloat16}, None, 2, "as-saved"),
        ({"rank": 16}, None, 1, "int8"),
    ],
)
def test_bytes_are_those_of_the_engine(tmp_path, tiny_model, sizes, options, targets, width, rows):
    make_lora(tmp_path / "a", tiny_model, **options)
    pool = PoolSizes(base=sizes, block_tokens=BLOCK_TOKENS, row_width=width)
    expected = cost_of_rank(pool, options["rank"], targets)
    with LLM(
        str(tiny_model), adapters=tmp_path, memory_gib=0.01, threads=1, adapter_rows=rows
    ) as llm:
        llm.generate("x", adapter="a", sampling=ONE)
        (status,) = llm.engine.adapters()
        taken = llm.engine.stats().blocks_adapters
    assert status.num_bytes == expected.num_bytes
    assert taken == expected.num_blocks


def test_a_larger_neighbour_changes_no_ones_cost(sizes):
    """No padding: bytes are proportional to the own rank."""
    pool = PoolSizes(base=sizes, block_tokens=BLOCK_TOKENS, row_width=4)
    one = cost_of_rank(pool, 1).num_bytes
    for rank in (3, 8, 64):
        assert cost_of_rank(pool, rank).num_bytes == rank * one
    assert one == 4 * sum(h_out + h_in for h_out, h_in in sizes.shape.linears.values())


@pytest.mark.parametrize(
    ("options", "width", "rows"),
    [
        ([], 4, "float32"),
        (["--dtype", "bfloat16"], 2, "bfloat16"),
        (["--dtype", "float16"], 2, "float32"),
        (["--device", "cuda"], 2, "bfloat16"),
        (["--device", "cuda", "--dtype", "float32", "--rows", "int8"], 4, "int8"),
    ],
)
def test_bytes_are_those_of_the_number_format(tiny_model, capsys, options, width, rows):
    sizes = base_sizes(tiny_model, width)
    assert sizes.token_bytes * 4 == base_sizes(tiny_model).token_bytes * width
    assert plan("--model", tiny_model, "--memory", 0.01, *options) == 0
    out = capsys.readouterr().out
    assert f"rows in {rows}" in out
    num_blocks = int(0.01 * 1024**3) // (sizes.token_bytes * BLOCK_TOKENS)
    assert f"pool of 0.01 GiB: {num_blocks} blocks" in out


def test_a_quantised_base_weighs_less(tiny_model, capsys):
    weights = base_sizes(tiny_model, quantization="bnb-4bit").weight_bytes
    assert plan("--model", tiny_model, "--memory", 0.01, "--quantization", "bnb-4bit") == 0
    said = f"{format_bytes(weights)} in float32, linear layers as bnb-4bit"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("free", "gib"), [(80, 72.0), (2, 1.0)], ids=["nine tenths", "room for steps"]
)
def test_the_pool_of_a_gpu_is_what_the_weights_leave(tiny_model, capsys, monkeypatch, free, gib):
    weights = base_sizes(tiny_model, 2).weight_bytes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * 1024**3 + weights, 0))
    assert plan("--model", tiny_model, "--device", "cuda") == 0
    assert f"pool of {gib:g} GiB" in capsys.readouterr().out


def test_table_and_picture(tmp_path, tiny_model, capsys):
    picture = tmp_path / "plan.png"
    assert plan("--model", tiny_model, "--memory", 0.01, "--tokens", 160, "--output", picture) == 0
    out = capsys.readouterr().out
    for kind in ("low-rank 64", "DoRA", "SHiRA", "SMT", "LoReFT", "virtual tokens"):
        assert kind in out
    assert "beside 160 tokens" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--memory", "-1"], "--memory"),
        (["--tokens", "10000000"], "give fewer or more --memory"),
        (["--block-tokens", "0"], "--block-tokens"),
        (["--device", "cuda"], "--memory is needed: no GPU is visible"),
        (["--output", "/no/such/folder/x.png"], "does not exist"),
    ],
)
def test_wrong_wishes(tiny_model, capsys, monkeypatch, options, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert plan("--model", tiny_model, *options) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("ranks", "kv_heads"), [(2, 1), (4, 1)])
def test_a_plan_of_several_processes_is_that_of_each(tiny_model, capsys, ranks, kv_heads):
    """The tiny model has two key/value heads: four processes hold each of them twice."""
    whole, share = base_sizes(tiny_model), base_sizes(tiny_model, num_ranks=ranks)
    assert share.shape.num_kv_heads == kv_heads
    assert share.shape.linears["model.layers.0.self_attn.q_proj"] == (64 // ranks, 48)
    assert share.shape.linears["model.layers.0.self_attn.k_proj"] == (16, 48)
    assert share.shape.linears["model.layers.2.mlp.down_proj"] == (48, 100 // ranks)
    assert whole.num_parameters / ranks < share.num_parameters < whole.num_parameters / ranks * 1.25
    assert plan(tiny_model, "--tensor-parallel", ranks, "--memory", 0.01) == 0
    said = capsys.readouterr().out
    assert f"each of {ranks} processes: {share.num_parameters:,} parameters" in said


def test_full_sharding_leaves_a_process_less_of_each_adapter(tiny_model, capsys):
    shares = []
    for sharding in ("replicated", "full"):
        options = ("--tensor-parallel", 2, "--memory", 0.01, "--adapter-sharding", sharding)
        assert plan(tiny_model, *options) == 0
        (line,) = [
            line
            for line in capsys.readouterr().out.splitlines()
            if line.startswith("low-rank 64, all linear")
        ]
        shares.append(int(line.split()[-1]))
    assert shares[1] > shares[0], "more of them fit alone"
    assert plan(tiny_model, "--device", "cuda", "--memory", 1, *options[:2], *options[4:]) == 2
    assert "--adapter-sharding full: " in capsys.readouterr().err


def test_a_plan_of_too_many_processes_names_those_that_work(tiny_model, capsys):
    assert plan(tiny_model, "--tensor-parallel", 3) == 2
    assert "tensor_parallel=3: " in capsys.readouterr().err
