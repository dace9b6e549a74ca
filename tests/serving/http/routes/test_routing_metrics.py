"""What routers of several servers read at /metrics, under vLLM's names."""

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families


def read(text):
    families = text_string_to_metric_families(text)
    return {sample.name: sample for family in families for sample in family.samples}


def test_a_router_reads_which_adapters_are_in_use_and_how_full_the_server_is(make_engine, ask):
    engine = make_engine()
    stats = replace(
        engine.stats(),
        num_running=3,
        num_waiting=2,
        max_running=64,
        running_adapters=frozenset({"poet", "pirate"}),
        waiting_adapters=frozenset({"chef", "with,comma"}),
        blocks_total=100,
        blocks_free=40,
        blocks_cached=10,
    )
    engine.stats = lambda: stats
    found = read(ask(engine, "GET", "/metrics").text)
    assert found["vllm:num_requests_running"].value == 3
    assert found["vllm:num_requests_waiting"].value == 2
    assert found["vllm:kv_cache_usage_perc"].value == 0.5
    info = found["vllm:lora_requests_info"]
    assert info.labels == {
        "max_lora": "64",
        "running_lora_adapters": "pirate,poet",
        "waiting_lora_adapters": "chef",
    }
    assert info.value > 1e9


def test_a_long_queue_makes_no_label_without_end(make_engine, ask):
    engine = make_engine()
    names = frozenset(f"adapter-{number:04}" for number in range(3000))
    stats = replace(engine.stats(), waiting_adapters=names)
    engine.stats = lambda: stats
    info = read(ask(engine, "GET", "/metrics").text)["vllm:lora_requests_info"]
    assert len(info.labels["waiting_lora_adapters"].split(",")) == 256
