"""The picture of the losses."""

import struct
from itertools import pairwise

import pytest

from gossamer.training.outputs.loss_curve import draw_loss_curve, smooth


def test_smoothing_keeps_a_constant_and_the_first_value():
    assert smooth([2.0] * 50) == pytest.approx([2.0] * 50)
    assert smooth([5.0, 1.0])[0] == 5.0
    assert smooth([]) == []


def test_smoothing_evens_out_and_follows():
    noisy = [step + (5 if step % 2 else -5) for step in range(200)]
    smoothed = smooth(noisy)
    jumps = [abs(b - a) for a, b in pairwise(smoothed[20:])]
    assert max(jumps) < 3
    assert smoothed[-1] == pytest.approx(190, abs=10)


@pytest.mark.parametrize("steps", [1, 300])
def test_the_picture_is_a_png_of_fair_size(tmp_path, steps):
    records = [{"step": 0, "eval_loss": 3.0}]
    records += [{"step": s, "loss": 3.0 / s} for s in range(1, steps + 1)]
    path = tmp_path / "curve.png"
    draw_loss_curve(records, path, title="$a title$ with \\frac and _")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (960, 540)
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]
