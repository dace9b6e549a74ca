"""Tiles written in vector instructions against plain sums in float64, at odd widths and places."""

import numpy as np
import pytest
import torch
from numba import njit

from gossamer.kernels.tiles import reference
from gossamer.kernels.tiles.expand import PANEL_LANES, make_expand, make_panel
from gossamer.kernels.tiles.gather import make_gather
from gossamer.kernels.tiles.shrink import make_shrink

STORED = ["float32", "bfloat16", "int8"]

shrink_1x1, shrink_2x3 = make_shrink(1, 1, fetches=True), make_shrink(2, 3)
expand_1, expand_4 = make_expand(1), make_expand(4)
panel_2x3 = make_panel(2, 3)
gather_1, gather_8 = make_gather(1), make_gather(8)


@njit
def one_by_one(x, x_start, x_stride, pool, starts, width, out, out_start, out_stride):
    shrink_1x1(x, x_start, x_stride, pool, (starts[0],), width, out, out_start, out_stride)


@njit
def two_by_three(x, x_start, x_stride, pool, starts, width, out, out_start, out_stride):
    three = (starts[0], starts[1], starts[2])
    shrink_2x3(x, x_start, x_stride, pool, three, width, out, out_start, out_stride)


@njit
def add_one(y, y_start, pool, starts, width, weight, weight_start):
    expand_1(y, y_start, pool, (starts[0],), width, weight, weight_start)


@njit
def add_four(y, y_start, pool, starts, width, weight, weight_start):
    four = (starts[0], starts[1], starts[2], starts[3])
    expand_4(y, y_start, pool, four, width, weight, weight_start)


@njit
def add_panel(y, y_start, y_stride, pool, starts, column, weight, weight_start, stride, count):
    panel_2x3(y, y_start, y_stride, pool, starts, column, weight, weight_start, stride, count)


@njit
def gather_one(x, x_start, stride, places, first, values, at, length, out, out_start):
    gather_1(x, x_start, stride, places, first, values, at, length, out, out_start)


@njit
def gather_eight(x, x_start, stride, places, first, values, at, length, out, out_start):
    gather_8(x, x_start, stride, places, first, values, at, length, out, out_start)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pool_of(rows, stored):
    """(pool, places of the rows in it, the rows as they rest there), with gaps of odd sizes."""
    count, width = rows.shape
    starts = 3 + np.arange(count, dtype=np.int64) * (width + 5)
    if stored == "int8":
        kept = (rows * 40).clip(-127, 127).astype(np.int8)
        pool = np.full(starts[-1] + width + 70, 77, dtype=np.int8)
    elif stored == "bfloat16":
        kept = torch.from_numpy(rows).bfloat16().view(torch.int16).numpy().view(np.uint16)
        pool = np.full(starts[-1] + width + 70, 0x7FC0, dtype=np.uint16)
    else:
        kept, pool = rows, np.full(starts[-1] + width + 70, np.nan, dtype=np.float32)
    for start, row in zip(starts, kept, strict=True):
        pool[start : start + width] = row
    return pool, starts, kept


def assert_close(got, want):
    assert np.isfinite(got).all()
    assert np.abs(got - want).max() <= 1e-5 * max(1.0, np.abs(want).max())


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("width", [1, 15, 16, 75])
def test_dot_products_with_rows(stored, width):
    pool, starts, kept = pool_of(floats(3, width), stored)
    x = floats(2, width, seed=1)
    flat, out = np.concatenate([[np.nan], x.ravel()]).astype(np.float32), np.zeros(12, np.float32)
    two_by_three(flat, 1, width, pool, starts, width, out, 2, 5)
    want = reference.shrink(x, kept)
    assert_close(np.stack([out[2:5], out[7:10]]), want)
    assert not out[[0, 1, 5, 6, 10, 11]].any(), "written beside its place"
    one_by_one(flat, 1, width, pool, starts, width, out, 0, 1)
    assert_close(out[:1], want[0, :1])


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("width", [1, 15, 16, 75])
def test_weighted_rows_are_added(stored, width):
    pool, starts, kept = pool_of(floats(4, width), stored)
    y, weights = floats(width + 2, seed=1), floats(6, seed=2)
    got = y.copy()
    add_four(got, 1, pool, starts, width, weights, 1)
    assert_close(got[1:-1], reference.expand(y[None, 1:-1], weights[None, 1:5], kept)[0])
    assert got[0] == y[0]
    assert got[-1] == y[-1]
    got = y.copy()
    add_one(got, 1, pool, starts, width, weights, 2)
    assert_close(got[1:-1], reference.expand(y[None, 1:-1], weights[None, 2:3], kept[:1])[0])


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_panel_adds_some_columns_of_all_rows_to_several_tokens(stored, count):
    columns, first = 3 * PANEL_LANES, 8
    pool, starts, kept = pool_of(floats(7, first + columns + 9), stored)
    y, weights = floats(2, columns + 3, seed=1), floats(2, 9, seed=2)
    got = y.copy()
    add_panel(
        got.reshape(-1), 0, columns + 3, pool, starts, first, weights.reshape(-1), 1, 9, count
    )
    want = reference.expand(
        y[:, :columns], weights[:, 1 : 1 + count], kept[:count, first : first + columns]
    )
    assert_close(got[:, :columns], want)
    assert np.array_equal(got[:, columns:], y[:, columns:])


@pytest.mark.parametrize(("tokens", "call"), [(1, gather_one), (8, gather_eight)])
@pytest.mark.parametrize("length", [0, 1, 4, 11])
def test_scattered_inputs_are_summed(tokens, call, length):
    x = floats(30, tokens)
    places = np.random.default_rng(3).permutation(30).astype(np.uint32)
    values, out = floats(20, seed=4), np.full(tokens + 2, 9.0, dtype=np.float32)
    call(x.reshape(-1), 0, tokens, places, 2, values, 3, length, out, 1)
    want = reference.gather(x, places[2 : 2 + length], values[3 : 3 + length])
    assert_close(out[1:-1], want)
    assert out[0] == out[-1] == 9.0
