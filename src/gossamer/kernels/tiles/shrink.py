"""Dot products of T tokens with R rows: out[t, r] = x[t] . row[r]."""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gossamer.kernels.tiles.instructions import (
    FLOAT,
    INT64,
    LANES,
    Rows,
    data,
    load,
    loop,
    multiply_add,
    place,
    tree_sum,
    wide,
)


def make_shrink(tokens, rows, *, fetches=False):
    """The intrinsic `shrink(x, x_start, x_stride, pool, starts, width, out, out_start,
    out_stride)`; arrays are contiguous, starts and strides count elements, `starts` is a tuple of
    `rows` places in `pool`.

    fetches: have the rows behind these brought in meanwhile, for tiles that wait for memory.
    """

    @intrinsic
    def shrink(
        typing_context, x, x_start, x_stride, pool, starts, width, out, out_start, out_stride
    ):
        signature = types.void(
            x, x_start, x_stride, pool, starts, width, out, out_start, out_stride
        )

        def generate(context, builder, signature, arguments):
            x_, x0, x_step, pool_, starts_, width_, out_, out0, out_step = arguments
            tile = Rows(context, builder, signature.args[3], pool_, starts_, rows)
            x_data = data(context, builder, signature.args[0], x_)
            out_data = data(context, builder, signature.args[6], out_)
            x_tokens = [place(builder, x_data, x0, x_step, t) for t in range(tokens)]
            sums = _dot_products(builder, tile, x_tokens, width_, fetches)
            for t in range(tokens):
                target = place(builder, out_data, out0, out_step, t)
                for r in range(rows):
                    builder.store(sums[t][r], builder.gep(target, [INT64(r)]))
            return context.get_dummy_value()

        return signature, generate

    return shrink


def _dot_products(builder, tile, x_tokens, width, fetches):
    """[token][row] scalars: whole vectors first, their lanes added as a tree, then the rest."""
    vector = wide(FLOAT, LANES)
    pairs = [(t, r) for t in range(len(x_tokens)) for r in range(len(tile))]
    # In memory until LLVM promotes them to registers.
    lanes = {p: cgutils.alloca_once_value(builder, vector([0.0] * LANES)) for p in pairs}
    whole = builder.and_(width, INT64(-LANES))

    def whole_vectors(index):
        tokens = [load(builder, builder.gep(x, [index]), vector, FLOAT) for x in x_tokens]
        if fetches:
            tile.fetch_next(index, width)
        for r in range(len(tile)):
            row = tile.load(r, index, LANES)
            for t, token in enumerate(tokens):
                total = multiply_add(builder, row, token, builder.load(lanes[t, r]))
                builder.store(total, lanes[t, r])

    loop(builder, INT64(0), whole, LANES, whole_vectors)
    sums = {
        p: cgutils.alloca_once_value(builder, tree_sum(builder, builder.load(lanes[p])))
        for p in pairs
    }

    def rest(index):
        for r in range(len(tile)):
            row = tile.load(r, index, 1)
            for t, x in enumerate(x_tokens):
                token = builder.load(builder.gep(x, [index]))
                total = multiply_add(builder, row, token, builder.load(sums[t, r]))
                builder.store(total, sums[t, r])

    loop(builder, whole, width, 1, rest)
    return [[builder.load(sums[t, r]) for r in range(len(tile))] for t in range(len(x_tokens))]
