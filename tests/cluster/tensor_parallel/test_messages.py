"""Messages come out as they went in; a step of many decoding sequences is small."""

import random

import pytest

from gossamer.cluster.tensor_parallel.messages import (
    Decoder,
    Encoder,
    EvictAdapter,
    ForgetRows,
    LoadAdapter,
    MergeAdapter,
    Ping,
    PlaceAdapter,
    RunStep,
    StartModel,
    StepPart,
    Stop,
)


@pytest.mark.parametrize(
    "message",
    [
        StartModel(
            "/models/ä b", "f" * 64, {"block_tokens": 16, "adapters": ["runs"], "threads": None}
        ),
        LoadAdapter(7, "/runs/poet", 'po"et', "d" * 64),
        PlaceAdapter(3, [5, 2, 900_000]),
        PlaceAdapter(3, []),
        EvictAdapter(12),
        ForgetRows([]),
        ForgetRows([1, 2]),
        MergeAdapter(4),
        RunStep([], merged=2),
        Ping(),
        Stop(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_comes_out_as_it_went_in(message):
    assert Decoder().decode(Encoder().encode(message)) == message


def decoding(number, *, blocks, uses=()):
    return StepPart(
        tokens=[number], num_computed=16 * len(blocks) - 3, num_prompt=9, is_due=True,
        scored=range(0), blocks=blocks, uses=list(uses),
    )  # fmt: skip


def test_steps_come_out_whole_though_only_new_blocks_are_sent():
    """Random lives of sequences: they grow, are preempted, come back, and share first blocks."""
    rng = random.Random(4)
    encoder, decoder = Encoder(), Decoder()
    alive = {}
    for _ in range(300):
        for name in list(alive):
            fate = rng.random()
            if fate < 0.1:
                del alive[name]
            elif fate < 0.2:
                alive[name] = rng.sample(range(1000), rng.randint(0, 5))
            elif fate < 0.5:
                alive[name].append(rng.randrange(1000))
        if rng.random() < 0.6:
            first = rng.choice([*(blocks[:2] for blocks in alive.values()), []])
            alive[rng.random()] = [*first, *rng.sample(range(1000), rng.randint(0, 9))]
        step = RunStep(
            [
                StepPart(
                    tokens=rng.choices(range(50_000), k=rng.randint(1, 4)),
                    num_computed=rng.randrange(99),
                    num_prompt=rng.randrange(99),
                    is_due=rng.random() < 0.5,
                    scored=range(rng.randrange(3), rng.randrange(3, 9)),
                    blocks=list(alive[name]),
                    uses=[(rng.randrange(1, 9), rng.random()) for _ in range(rng.randint(0, 2))],
                    prefix_of=rng.choice((0, 3)),
                )
                for name in rng.sample(sorted(alive), rng.randint(0, len(alive)))
            ],
            merged=rng.choice((0, 5)),
        )
        assert decoder.decode(encoder.encode(step)) == step


def test_a_step_of_64_sequences_with_32_adapters_is_under_16_kilobytes():
    """Each of 2,000 tokens so far; even the first step, in which all blocks are new, is small."""
    encoder = Encoder()
    blocks = [[64 * i + j for j in range(125)] for i in range(64)]

    def step():
        parts = [decoding(i, blocks=blocks[i], uses=[(i % 32 + 1, 1.0)]) for i in range(64)]
        return encoder.encode(RunStep(parts))

    assert len(step()) < 48 * 1024
    assert len(step()) < 5 * 1024
    for own in blocks:
        own.append(9_000 + own[0])
    assert len(step()) < 5 * 1024
