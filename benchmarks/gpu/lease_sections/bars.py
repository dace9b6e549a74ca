"""What the kernels and the engine are to reach; each bar reads what the sections have found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lease_sections.frame import Lease

Answer = tuple[bool, str] | None
"""Whether it is reached and the figure, or None: not measured."""


@dataclass(frozen=True)
class Bar:
    """One of them."""

    text: str
    check: Callable[[Lease], Answer]


def _correct(lease: Lease) -> Answer:
    found = lease.found("correctness")
    if found is None:
        return None
    return not found["failed"] and not found["not_run"], f"{len(found['failed'])} failures"


def _bandwidth(lease: Lease) -> Answer:
    reached = lease.found("lora", "gossamer", "64 x r16", "layer", "gb_s")
    most = lease.found("ceilings", "read_gb_s")
    if reached is None or most is None:
        return None
    return reached >= 0.7 * most, f"{reached / most:.0%} of {most:.0f} GB/s"


def _ratio(peer: str, work: str, least: float) -> Callable[[Lease], Answer]:
    def check(lease: Lease) -> Answer:
        own = lease.found("lora", "gossamer", work, "layer", "us")
        other = lease.found("peers", peer, work, "layer", "us")
        if own is None or other is None:
            return None
        return other / own >= least, f"{other / own:.2f}x"

    return check


def _replays(lease: Lease) -> Answer:
    different = lease.found("graphs", "different")
    return None if different is None else (not different, f"{len(different)} different")


def _floor(lease: Lease) -> Answer:
    """The least share of the read bandwidth over the sizes that the bar names."""
    most, shares = lease.found("ceilings", "read_gb_s"), []
    for size in (32, 64, 128):
        of = lease.found("decode", f"{size}, none")
        if most is None or of is None:
            return None
        shares.append(1e-6 * of["floor_bytes"] / most / of["ms"])
    return min(shares) >= 0.7, f"{min(shares):.0%}"


def _tax(most: Mapping[str, float]) -> Callable[[Lease], Answer]:
    """What steps of 64 tokens with these adapters cost beside the step without."""

    def check(lease: Lease) -> Answer:
        without = lease.found("decode", "64, none", "ms")
        taxes = {}
        for name in most:
            with_them = lease.found("decode", f"64, {name}", "ms")
            if without is None or with_them is None:
                return None
            taxes[name] = with_them / without - 1
        said = ", ".join(f"{name} {tax:.0%}" for name, tax in taxes.items())
        return all(tax <= most[name] for name, tax in taxes.items()), said

    return check


def _undisturbed(lease: Lease) -> Answer:
    quiet, busy = (lease.found("loading", f"{name}_p99_ms") for name in ("quiet", "busy"))
    if quiet is None or busy is None:
        return None
    return busy <= 1.05 * quiet, f"{busy / quiet:.2f}x"


def _answers(lease: Lease) -> Answer:
    different = lease.found("engine", "different")
    return None if different is None else (not different, f"{len(different)} different")


def _idle(lease: Lease) -> Answer:
    cost, same = (lease.found("unused", name) for name in ("cost", "same_graph"))
    if cost is None:
        return None
    return cost <= 0.01 and same, f"{cost:+.1%}" + ("" if same else ", another graph")


def _host(lease: Lease) -> Answer:
    ms = lease.found("host", "not_hidden_ms")
    return None if ms is None else (ms <= 0.5, f"{ms:.2f} ms")


def _requests(lease: Lease) -> Answer:
    own, other = (
        lease.found("peft", "requests_per_s", name) for name in ("gossamer", "peft switching")
    )
    if own is None or other is None:
        return None
    return own / other >= 30, f"{own / other:.0f}x"


def _widest(lease: Lease) -> Answer:
    """The least share of the read bandwidth of the two launches that read the most."""
    most, shares = lease.found("ceilings", "read_gb_s"), []
    for group, part in (("gate_up", "expand"), ("down", "shrink")):
        reached = lease.found("lora", "gossamer", "64 x r16", group, part, "gb_s")
        if most is None or reached is None:
            return None
        shares.append(reached / most)
    return min(shares) >= 0.8, f"{min(shares):.0%}"


BARS = (
    Bar("kernels correct against float64", _correct),
    Bar("adapter kernels at 70 % of the read bandwidth, 64 of rank 16, all groups", _bandwidth),
    Bar("of these, expand of gate and up and shrink of down at 80 %", _widest),
    Bar("equal ranks: 0.95 of csgmv's speed", _ratio("sglang csgmv", "64 x r16", 0.95)),
    Bar("mixed ranks: 1.1 of csgmv's speed", _ratio("sglang csgmv", "64 mixed", 1.1)),
    Bar("mixed ranks: 1.5 of vLLM's speed", _ratio("vllm", "64 mixed", 1.5)),
    Bar("replays have the bits of steps without a graph", _replays),
    Bar("decode step without adapters at 70 % of the byte floor, 32 to 128 tokens", _floor),
    Bar("LoRA on but unused costs 1 % at most", _idle),
    Bar(
        "64 adapters of rank 16 on attention cost 15 % of a step at most, on all layers 33 %",
        _tax({"attention distinct": 0.15, "all distinct": 0.33}),
    ),
    Bar("one adapter on all layers costs 10 % of a step at most", _tax({"all 1": 0.1})),
    Bar("99th percentile of steps while adapters arrive within 1.05 of without", _undisturbed),
    Bar("the engine's answers in float32 are plain torch's", _answers),
    Bar("0.5 ms of host work per step that nothing hides, 64 tokens", _host),
    Bar("30 times the requests per second of PEFT's switching, 100 adapters", _requests),
)


def table(lease: Lease) -> str:
    """Return one line for each bar."""
    lines = []
    for bar in BARS:
        # Other figures than a GPU's mean nothing.
        answer = bar.check(lease) if lease.device.type == "cuda" else None
        state = "not measured" if answer is None else "reached" if answer[0] else "MISSED"
        lines.append(f"{state:12}  {bar.text}{'' if answer is None else f': {answer[1]}'}")
    return "\n".join(lines)
