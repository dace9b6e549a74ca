"""Attention by FlashInfer, for which a stand-in computes what its wrappers are told to.

Steps are lowered as the runner lowers them; the answers are compared with the plain formula.
"""

from dataclasses import replace

import pytest
import torch
from launches import fake_flashinfer

from gossamer.errors import MissingExtraError, SettingError, UnknownNameError
from gossamer.kernels.attention_choice import choose_attention
from gossamer.kernels.paged_attention import KvLayout, make_paged_attention
from gossamer.kernels.paged_attention.reference import ReferencePagedAttention
from gossamer.serving.core.messages import Request
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.device.cpu import CpuDevice
from gossamer.serving.runner.batch import BatchBuilder
from gossamer.serving.runner.lowering.programs import ProgramLowering
from gossamer.serving.runner.lowering.threads import ThreadLowering
from gossamer.serving.scheduler.step import ScheduledChunk

BLOCK_TOKENS, LAYER, GROUP = 4, 1, 3
LAYOUT = KvLayout(
    num_layers=2, num_kv_heads=2, head_dim=16, block_tokens=BLOCK_TOKENS, dtype=torch.float32
)
NUM_BLOCKS = 80
SCALE = 0.3
BOUNDS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def chunk(*, computed=0, count=1, total=None, first_block=0):
    """`count` tokens from `computed` on of a sequence of `total` (just these) tokens."""
    total = computed + count if total is None else total
    made = Sequence(
        request=Request(request_id="r", prompt_token_ids=tuple(range(total))),
        adapter=None,
        max_new_tokens=8,
        token_ids=list(range(total)),
        # One more than it needs yet, and in no order.
        blocks=[(7 * (first_block + n)) % NUM_BLOCKS for n in range(-(-total // BLOCK_TOKENS) + 1)],
    )
    made.num_computed = computed
    return ScheduledChunk(made, count)


class Bench:
    """FlashInfer's attention and the plain one over pools of the same numbers."""

    def __init__(self, monkeypatch, dtype=torch.float32):
        self.wrappers = fake_flashinfer.install(monkeypatch)
        generator = torch.Generator().manual_seed(0)
        layout = replace(LAYOUT, dtype=dtype)
        self.dtype = dtype
        pool = torch.randn(NUM_BLOCKS * LAYOUT.block_bytes // 4, generator=generator).to(dtype)
        self.generator = generator
        self.pool, self.plain_pool = pool.view(torch.uint8), pool.clone().view(torch.uint8)
        self.attention = make_paged_attention(self.pool, layout, "flashinfer", GROUP)
        self.plain = ReferencePagedAttention(self.plain_pool, layout)
        self.lowering = ProgramLowering(
            CpuDevice("triton"), block_tokens=BLOCK_TOKENS, takes_pages=True
        )
        self.builder = BatchBuilder(block_tokens=BLOCK_TOKENS, lowering=self.lowering)
        self.build = self.builder.build
        self.build_plain = BatchBuilder(
            block_tokens=BLOCK_TOKENS,
            lowering=ThreadLowering(block_tokens=BLOCK_TOKENS, num_workers=1),
        ).build

    def check(self, step, replayed=None):
        """Compute `step`, by the batch `replayed` if one is given, and compare; its batch."""
        batch, plain = self.build(step), self.build_plain(step)
        tokens, known = batch.token_ids.shape[1], plain.token_ids.shape[1]
        heads = (GROUP + 2) * LAYOUT.num_kv_heads
        # As an attention layer holds them: views of one product, side by side.
        states = torch.randn(tokens, heads, LAYOUT.head_dim, generator=self.generator)
        states = states.to(self.dtype)
        sizes = [GROUP * LAYOUT.num_kv_heads, LAYOUT.num_kv_heads, LAYOUT.num_kv_heads]
        self.attention.plan(batch.attention)
        arrays = (replayed or batch).attention
        got = self.attention(arrays, LAYER, *states.split(sizes, dim=1), SCALE)
        want = self.plain(plain.attention, LAYER, *states[:known].split(sizes, dim=1), SCALE)
        torch.testing.assert_close(
            got[:known], want, rtol=BOUNDS[self.dtype], atol=BOUNDS[self.dtype]
        )
        assert torch.equal(self.pool, self.plain_pool)
        return batch


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def kinds(wrappers):
    """The sorts of the wrappers that have computed anything."""
    return [
        "decode" if "Decode" in type(each).__name__ else "prefill" for each in wrappers if each.runs
    ]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_chunks_of_any_length_among_decodes(monkeypatch, dtype):
    bench = Bench(monkeypatch, dtype)
    bench.check(
        [
            chunk(count=9),
            chunk(computed=5, count=6, total=20, first_block=10),
            chunk(computed=3, first_block=20),
            chunk(computed=12, first_block=30),
            chunk(count=4, first_block=40),
        ]
    )
    assert kinds(bench.wrappers) == ["prefill"]


def test_decodes_are_padded_and_other_steps_of_the_size_reuse_what_was_captured(bench):
    first = bench.check([chunk(computed=n, first_block=10 * n) for n in (2, 4, 5)])
    other = [chunk(computed=9 - n, first_block=11 * n) for n in range(4)]
    again = bench.check(other, replayed=first)
    assert again.key == first.key
    assert first.attention.pages.first_page.tolist() == [0, 1, 3, 5, 6]
    assert first.attention.pages.last_page_tokens.tolist() == [3, 1, 2, 1]
    assert again.attention.pages.pages.data_ptr() == first.attention.pages.pages.data_ptr()
    assert kinds(bench.wrappers) == ["decode"]


def test_steps_of_another_size_or_with_many_more_blocks_have_their_own_wrapper(bench):
    one = bench.check([chunk(computed=3)])
    two = bench.check([chunk(computed=3), chunk(computed=8, first_block=9)])
    long = bench.check([chunk(computed=80)])
    assert len({one.key, two.key, long.key}) == 3
    assert kinds(bench.wrappers) == ["decode"] * 3
    # What was captured for the first is right still.
    bench.check([chunk(computed=17, first_block=3)], replayed=one)


def test_a_sequence_that_begins_late_in_its_first_block_takes_our_kernels(bench):
    step = bench.builder.describe([chunk(computed=5)])
    early = bench.lowering.lower(step)
    step.sequence_start[:] = 2
    late = bench.lowering.lower(step)
    assert early.attention.pages is not None
    assert early.attention.split_token.tolist() == [-1]
    assert late.attention.pages is None
    assert late.attention.split_token.tolist() == [0]
    assert late.key != early.key


def test_layers_with_a_window_are_refused(bench):
    batch = bench.build([chunk(computed=5)])
    bench.attention.plan(batch.attention)
    states = torch.zeros(1, 2 * GROUP, 16), torch.zeros(1, 2, 16), torch.zeros(1, 2, 16)
    with pytest.raises(ValueError, match="window"):
        bench.attention(batch.attention, LAYER, *states, SCALE, window=4)


def test_a_plan_waits_until_the_last_one_of_its_wrapper_has_been_copied(monkeypatch):
    made = Bench(monkeypatch)
    import gossamer.kernels.paged_attention.flashinfer as ours

    log = []

    class Event:
        def synchronize(self):
            log.append("wait")

        def record(self):
            log.append("mark")

    monkeypatch.setattr(ours, "new_event", lambda device: Event())
    attention = make_paged_attention(made.pool, LAYOUT, "flashinfer", GROUP)
    monkeypatch.setattr(made.wrappers[-1], "plan", lambda **given: log.append("plan"))
    attention.plan(made.build([chunk(count=3)]).attention)
    assert log == ["wait", "plan", "mark"]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_processors_have_no_choice(backend):
    with pytest.raises(SettingError, match=f"'{backend}'"):
        choose_attention("flashinfer", backend, LAYOUT, has_window=False)
    assert choose_attention("auto", backend, LAYOUT, has_window=False) == backend


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr("gossamer.kernels.attention_choice.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"flashinfer-python.*\.\[flashinfer\]"):
        choose_attention("flashinfer", "triton", LAYOUT, has_window=False)
    with pytest.raises(UnknownNameError):
        choose_attention("flash", "triton", LAYOUT, has_window=False)


def test_what_flashinfer_does_not_compute_takes_our_kernels_and_says_so(monkeypatch, caplog):
    fake_flashinfer.install(monkeypatch)
    shape = {"num_layers": 2, "num_kv_heads": 2, "block_tokens": 16}

    def chosen(head_dim=128, dtype=torch.bfloat16, has_window=False):
        caplog.clear()
        layout = KvLayout(head_dim=head_dim, dtype=dtype, **shape)
        return choose_attention("flashinfer", "triton", layout, has_window=has_window)

    assert chosen() == "flashinfer"
    assert not caplog.records
    assert chosen(dtype=torch.float32) == "triton"
    assert "in float32" in caplog.text
    assert chosen(head_dim=80) == "triton"
    assert "heads of 80" in caplog.text
    assert chosen(has_window=True) == "triton"
    assert "window" in caplog.text
