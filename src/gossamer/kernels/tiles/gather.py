"""Sums over scattered inputs: out[t] = sum over k of value[k] * x[t, place[k]].

The tokens of x lie side by side.
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gossamer.kernels.tiles.instructions import (
    FLOAT,
    INT64,
    data,
    load,
    loop,
    multiply_add,
    splat,
    store,
    wide,
)

_CHAINS = 4
"""Sums that run side by side, so that none waits for the one before."""


def make_gather(tokens):
    """The intrinsic `gather(x, x_start, x_stride, places, places_start, values, values_start,
    length, out, out_start)`; x has `tokens` neighbours at each place, a stride apart; tokens and
    values are float32, places uint32."""

    @intrinsic
    def gather(
        typing_context, x, x_start, x_stride, places, places_start, values, values_start, length,
        out, out_start,
    ):  # fmt: skip
        signature = types.void(
            x, x_start, x_stride, places, places_start, values, values_start, length, out, out_start
        )

        def generate(context, builder, signature, arguments):
            x_, x0, step, places_, place0, values_, value0, length_, out_, out0 = arguments
            arrays = zip((0, 3, 5, 8), (x_, places_, values_, out_), strict=True)
            x_data, places_data, values_data, out_data = (
                data(context, builder, signature.args[i], array) for i, array in arrays
            )
            vector = wide(FLOAT, tokens)
            zero = vector([0.0] * tokens) if tokens > 1 else vector(0.0)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(_CHAINS)]

            def add(index, total):
                place = builder.load(builder.gep(places_data, [builder.add(place0, index)]))
                value = builder.load(builder.gep(values_data, [builder.add(value0, index)]))
                start = builder.add(x0, builder.mul(builder.zext(place, INT64), step))
                row = load(builder, builder.gep(x_data, [start]), vector, FLOAT)
                factor = splat(builder, value, tokens)
                builder.store(multiply_add(builder, row, factor, builder.load(total)), total)

            def several(index):
                for chain, total in enumerate(sums):
                    add(builder.add(index, INT64(chain)), total)

            whole = builder.and_(length_, INT64(-_CHAINS))
            loop(builder, INT64(0), whole, _CHAINS, several)
            loop(builder, whole, length_, 1, lambda index: add(index, sums[0]))
            parts = [builder.load(total) for total in sums]
            while len(parts) > 1:
                parts = [builder.fadd(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
            store(builder, parts[0], builder.gep(out_data, [out0]))
            return context.get_dummy_value()

        return signature, generate

    return gather
