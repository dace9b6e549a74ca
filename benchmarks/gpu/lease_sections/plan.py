"""The sections in their order, with the seconds that each may take; the last go first."""

from lease_sections import attention_times, ceilings, correctness, lora_times
from lease_sections.frame import Section

SECTIONS = (
    Section("ceilings", 20, ceilings.ceilings, ceilings.says),
    Section("correctness", 80, correctness.correctness, correctness.says),
    Section("lora", 60, lora_times.ours, lora_times.says),
    Section("peers", 45, lora_times.theirs, lora_times.says),
    Section("attention", 30, attention_times.attention, attention_times.says),
)
