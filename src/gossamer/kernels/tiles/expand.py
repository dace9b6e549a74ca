"""Weighted sums of rows: y[t] += sum over r of weight[t, r] * row[r], one row after the other.

For one token, whose time is the reading of rows, some rows are gone through together, each from
end to end. For several, which is arithmetic, some columns of all tokens stay in registers while
all rows go by.
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gossamer.kernels.tiles.instructions import (
    FLOAT,
    INT64,
    LANES,
    STORED,
    Rows,
    data,
    load,
    load_widened,
    loop,
    multiply_add,
    place,
    prefetch,
    splat,
    store,
    wide,
)

PANEL_LANES = 8
"""The floats of a panel's vector: one register of AVX2."""

_FETCHED = 64
"""How many elements ahead in a row a panel asks for."""


def make_expand(rows):
    """The intrinsic `expand(y, y_start, pool, starts, width, weight, weight_start)` for one token;
    see `make_shrink`."""

    @intrinsic
    def expand(typing_context, y, y_start, pool, starts, width, weight, weight_start):
        signature = types.void(y, y_start, pool, starts, width, weight, weight_start)

        def generate(context, builder, signature, arguments):
            y_, y0, pool_, starts_, width_, weight_, weight0 = arguments
            tile = Rows(context, builder, signature.args[2], pool_, starts_, rows)
            y_data = data(context, builder, signature.args[0], y_)
            weight_data = data(context, builder, signature.args[5], weight_)
            weights = [
                builder.load(place(builder, weight_data, weight0, INT64(1), r)) for r in range(rows)
            ]
            _add_rows(builder, tile, builder.gep(y_data, [y0]), weights, width_)
            return context.get_dummy_value()

        return signature, generate

    return expand


def _add_rows(builder, tile, target, weights, width):
    whole = builder.and_(width, INT64(-LANES))

    def pass_over(lanes):
        factors = [splat(builder, weight, lanes) for weight in weights]

        def add(index):
            rows = [tile.load(r, index, lanes) for r in range(len(tile))]
            if lanes > 1:
                tile.fetch_next(index, width)
            where = builder.gep(target, [index])
            total = load(builder, where, wide(FLOAT, lanes), FLOAT)
            for row, factor in zip(rows, factors, strict=True):
                total = multiply_add(builder, row, factor, total)
            store(builder, total, where)

        return add

    loop(builder, INT64(0), whole, LANES, pass_over(LANES))
    loop(builder, whole, width, 1, pass_over(1))


def make_panel(tokens, vectors, lanes=PANEL_LANES):
    """The intrinsic `panel(y, y_start, y_stride, pool, starts, column, weight, weight_start,
    weight_stride, count)`, which adds columns [column, column + vectors * lanes) of `count` rows;
    `starts` is an array of the rows' places in `pool`, y_start the place of the first column."""

    @intrinsic
    def panel(
        typing_context, y, y_start, y_stride, pool, starts, column, weight, weight_start,
        weight_stride, count,
    ):  # fmt: skip
        signature = types.void(
            y, y_start, y_stride, pool, starts, column, weight, weight_start, weight_stride, count
        )

        def generate(context, builder, signature, arguments):
            y_, y0, y_step, pool_, starts_, column_, weight_, weight0, weight_step, count_ = (
                arguments
            )
            arrays = zip((0, 3, 4, 6), (y_, pool_, starts_, weight_), strict=True)
            y_data, pool_data, starts_data, weight_data = (
                data(context, builder, signature.args[i], array) for i, array in arrays
            )
            stored = STORED[signature.args[3].dtype]
            first_column = builder.gep(pool_data, [column_])
            weights = [place(builder, weight_data, weight0, weight_step, t) for t in range(tokens)]
            targets = [place(builder, y_data, y0, y_step, t) for t in range(tokens)]
            places = [
                builder.gep(target, [INT64(v * lanes)])
                for target in targets
                for v in range(vectors)
            ]
            kind = wide(FLOAT, lanes)
            # In memory until LLVM promotes them to registers.
            sums = [
                cgutils.alloca_once_value(builder, load(builder, where, kind, FLOAT))
                for where in places
            ]

            def add(index):
                row = builder.gep(first_column, [builder.load(builder.gep(starts_data, [index]))])
                if lanes > 1:
                    prefetch(builder, builder.gep(row, [INT64(_FETCHED)]))
                pieces = [
                    load_widened(builder, builder.gep(row, [INT64(v * lanes)]), stored, lanes)
                    for v in range(vectors)
                ]
                for t in range(tokens):
                    weight = builder.load(builder.gep(weights[t], [index]))
                    factor = splat(builder, weight, lanes)
                    for v, piece in enumerate(pieces):
                        total = sums[t * vectors + v]
                        value = multiply_add(builder, piece, factor, builder.load(total))
                        builder.store(value, total)

            loop(builder, INT64(0), count_, 1, add)
            for where, total in zip(places, sums, strict=True):
                store(builder, builder.load(total), where)
            return context.get_dummy_value()

        return signature, generate

    return panel
