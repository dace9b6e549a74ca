"""The sections in their order, with the seconds that each may take; the last go first.

Left out: 20 s of load on 2,000 adapters of which a twentieth is resident, beside as much on five.
The sections leave two seconds of 570, and that takes 40 without writing the adapters.
"""

from lease_sections import (
    attention_times,
    ceilings,
    correctness,
    decode_times,
    engine_answers,
    graph_steps,
    host_work,
    loading,
    lora_times,
    peft_requests,
    unused_adapters,
)
from lease_sections.frame import Section

SECTIONS = (
    Section("ceilings", 20, ceilings.ceilings, ceilings.says, needs_data=False),
    Section("correctness", 80, correctness.correctness, correctness.says),
    Section("graphs", 30, graph_steps.graphs, graph_steps.says),
    Section("engine", 60, engine_answers.answers, engine_answers.says),
    Section("lora", 60, lora_times.ours, lora_times.says, needs_data=False),
    Section("peers", 45, lora_times.theirs, lora_times.says, needs_data=False),
    Section("attention", 30, attention_times.attention, attention_times.says, needs_data=False),
    Section("decode", 120, decode_times.decode, decode_times.says),
    Section("unused", 10, unused_adapters.unused, unused_adapters.says),
    Section("host", 8, host_work.host, host_work.says),
    Section("loading", 60, loading.loading, loading.says),
    Section("peft", 45, peft_requests.peft, peft_requests.says),
)
