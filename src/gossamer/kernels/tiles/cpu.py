"""Tiles: T tokens against R rows of weights, written out in vector instructions.

Numba leaves the order of a sum, and which loads are shared, to the compiler. Here both are fixed: a
row is loaded once for all tokens of a tile, so that a tile does several multiply-adds per load; and
every sum runs in one order whatever T and R are, so that a token's result has the same bits in any
tile. Rows are float32, bfloat16 (as uint16) or int8, and are widened in registers.

    shrink: out[t, r] = x[t] . row[r]          expand: y[t] += sum over r of weight[t, r] * row[r]
    gather: out[t] = sum over k of value[k] * x[t, place[k]], with the tokens of x side by side

LLVM splits vectors that are wider than the processor's.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Floats of a vector: two registers of AVX2, so that two sums run side by side."""

_CHAINS = 4
"""Sums of a gather that run side by side, so that none waits for the one before."""

_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_STORED = {types.float32: _FLOAT, types.uint16: ir.IntType(16), types.int8: ir.IntType(8)}


def make_shrink(tokens, rows):
    """The intrinsic `shrink(x, x_start, x_stride, pool, starts, width, out, out_start,
    out_stride)`; arrays are contiguous, starts and strides count elements, `starts` is a tuple of
    `rows` places in `pool`."""

    @intrinsic
    def shrink(
        typing_context, x, x_start, x_stride, pool, starts, width, out, out_start, out_stride
    ):
        signature = types.void(
            x, x_start, x_stride, pool, starts, width, out, out_start, out_stride
        )

        def generate(context, builder, signature, arguments):
            x_, x0, x_step, pool_, starts_, width_, out_, out0, out_step = arguments
            stored = _STORED[signature.args[3].dtype]
            tile = _Tile(context, builder, signature.args[3], pool_, starts_, rows, stored)
            x_data = _data(context, builder, signature.args[0], x_)
            out_data = _data(context, builder, signature.args[6], out_)
            x_tokens = [_place(builder, x_data, x0, x_step, t) for t in range(tokens)]
            sums = _dot_products(builder, tile, x_tokens, width_)
            for t in range(tokens):
                target = _place(builder, out_data, out0, out_step, t)
                for r in range(rows):
                    builder.store(sums[t][r], builder.gep(target, [_INT64(r)]))
            return context.get_dummy_value()

        return signature, generate

    return shrink


def make_expand(tokens, rows):
    """The intrinsic `expand(y, y_start, y_stride, pool, starts, width, weight, weight_start,
    weight_stride)`; see `make_shrink`."""

    @intrinsic
    def expand(
        typing_context, y, y_start, y_stride, pool, starts, width, weight, weight_start,
        weight_stride,
    ):  # fmt: skip
        signature = types.void(
            y, y_start, y_stride, pool, starts, width, weight, weight_start, weight_stride
        )

        def generate(context, builder, signature, arguments):
            y_, y0, y_step, pool_, starts_, width_, weight_, weight0, weight_step = arguments
            stored = _STORED[signature.args[3].dtype]
            tile = _Tile(context, builder, signature.args[3], pool_, starts_, rows, stored)
            y_data = _data(context, builder, signature.args[0], y_)
            weight_data = _data(context, builder, signature.args[6], weight_)
            weights = [
                [builder.load(builder.gep(place, [_INT64(r)])) for r in range(rows)]
                for place in (
                    _place(builder, weight_data, weight0, weight_step, t) for t in range(tokens)
                )
            ]
            targets = [_place(builder, y_data, y0, y_step, t) for t in range(tokens)]
            _add_rows(builder, tile, targets, weights, width_)
            return context.get_dummy_value()

        return signature, generate

    return expand


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
                _data(context, builder, signature.args[i], array) for i, array in arrays
            )
            vector = _wide(_FLOAT, tokens)
            zero = vector([0.0] * tokens) if tokens > 1 else vector(0.0)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(_CHAINS)]

            def add(index, total):
                place = builder.load(builder.gep(places_data, [builder.add(place0, index)]))
                value = builder.load(builder.gep(values_data, [builder.add(value0, index)]))
                start = builder.add(x0, builder.mul(builder.zext(place, _INT64), step))
                row = _load(builder, builder.gep(x_data, [start]), vector, _FLOAT)
                factor = _splat(builder, value, tokens) if tokens > 1 else value
                builder.store(_multiply_add(builder, row, factor, builder.load(total)), total)

            def several(index):
                for chain, total in enumerate(sums):
                    add(builder.add(index, _INT64(chain)), total)

            whole = builder.and_(length_, _INT64(-_CHAINS))
            _loop(builder, _INT64(0), whole, _CHAINS, several)
            _loop(builder, whole, length_, 1, lambda index: add(index, sums[0]))
            parts = [builder.load(total) for total in sums]
            while len(parts) > 1:
                parts = [builder.fadd(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
            target = builder.bitcast(builder.gep(out_data, [out0]), vector.as_pointer())
            builder.store(parts[0], target, align=4)
            return context.get_dummy_value()

        return signature, generate

    return gather


class _Tile:
    """Rows of the pool, loaded as float32 vectors or scalars."""

    def __init__(self, context, builder, pool_type, pool, starts, rows, stored):
        data = _data(context, builder, pool_type, pool)
        self._builder = builder
        self._rows = [
            builder.gep(data, [start]) for start in cgutils.unpack_tuple(builder, starts, rows)
        ]
        self._stored = stored
        self.rows = rows

    def fetch_next(self, index, width):
        """Have the rows of the next tile brought in: most often they lie right behind these.

        For tiles of one token, which wait for memory; larger ones have no register to spare.
        """
        ahead = self._builder.add(index, self._builder.mul(width, _INT64(self.rows)))
        for row in self._rows:
            _prefetch(self._builder, self._builder.gep(row, [ahead]))

    def load(self, row, index, lanes):
        """Elements [index, index + lanes) of a row, as float32."""
        builder = self._builder
        place = builder.gep(self._rows[row], [index])
        value = _load(builder, place, _wide(self._stored, lanes), self._stored)
        if self._stored is _FLOAT:
            return value
        integer, floating = _wide(_INT32, lanes), _wide(_FLOAT, lanes)
        if self._stored.width == 16:
            shift = integer([16] * lanes) if lanes > 1 else integer(16)
            return builder.bitcast(builder.shl(builder.zext(value, integer), shift), floating)
        return builder.sitofp(builder.sext(value, integer), floating)


def _dot_products(builder, tile, x_tokens, width):
    """[token][row] scalars: whole vectors first, their lanes added as a tree, then the rest."""
    vector = _wide(_FLOAT, LANES)
    pairs = [(t, r) for t in range(len(x_tokens)) for r in range(tile.rows)]
    # In memory until LLVM promotes them to registers.
    lanes = {p: cgutils.alloca_once_value(builder, vector([0.0] * LANES)) for p in pairs}
    whole = builder.and_(width, _INT64(-LANES))

    def whole_vectors(index):
        tokens = [_load(builder, builder.gep(x, [index]), vector, _FLOAT) for x in x_tokens]
        if len(x_tokens) == 1:
            tile.fetch_next(index, width)
        for r in range(tile.rows):
            row = tile.load(r, index, LANES)
            for t, token in enumerate(tokens):
                total = _multiply_add(builder, row, token, builder.load(lanes[t, r]))
                builder.store(total, lanes[t, r])

    _loop(builder, _INT64(0), whole, LANES, whole_vectors)
    sums = {
        p: cgutils.alloca_once_value(builder, _tree_sum(builder, builder.load(lanes[p])))
        for p in pairs
    }

    def rest(index):
        for r in range(tile.rows):
            row = tile.load(r, index, 1)
            for t, x in enumerate(x_tokens):
                token = builder.load(builder.gep(x, [index]))
                builder.store(
                    _multiply_add(builder, row, token, builder.load(sums[t, r])), sums[t, r]
                )

    _loop(builder, whole, width, 1, rest)
    return [[builder.load(sums[t, r]) for r in range(tile.rows)] for t in range(len(x_tokens))]


def _add_rows(builder, tile, targets, weights, width):
    """targets[t] += weights[t][0] * row 0, then row 1, ...: one after the other, per element."""
    splats = [[_splat(builder, weight) for weight in of_token] for of_token in weights]
    whole = builder.and_(width, _INT64(-LANES))

    def pass_over(index, lanes, factors):
        rows = [tile.load(r, index, lanes) for r in range(tile.rows)]
        if len(targets) == 1:
            tile.fetch_next(index, width)
        for target, of_token in zip(targets, factors, strict=True):
            place = builder.gep(target, [index])
            place = builder.bitcast(place, _wide(_FLOAT, lanes).as_pointer())
            total = builder.load(place, align=4)
            for row, factor in zip(rows, of_token, strict=True):
                total = _multiply_add(builder, row, factor, total)
            builder.store(total, place, align=4)

    _loop(builder, _INT64(0), whole, LANES, lambda index: pass_over(index, LANES, splats))
    _loop(builder, whole, width, 1, lambda index: pass_over(index, 1, weights))


def _wide(scalar, lanes):
    return ir.VectorType(scalar, lanes) if lanes > 1 else scalar


def _data(context, builder, array_type, array):
    return context.make_array(array_type)(context, builder, array).data


def _place(builder, data, start, stride, token):
    return builder.gep(data, [builder.add(start, builder.mul(stride, _INT64(token)))])


def _load(builder, place, kind, scalar):
    width = 32 if scalar is _FLOAT else scalar.width
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=width // 8)


def _prefetch(builder, place):
    """Ask for the line at `place`, which may lie outside of the pool: nothing is read then."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _INT32, _INT32, _INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [builder.bitcast(place, byte), _INT32(0), _INT32(3), _INT32(1)])


def _multiply_add(builder, a, b, c):
    """a * b + c in one rounding where the processor can, which every vector width here shares."""
    suffix = f"v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else "f32"
    kind = ir.FunctionType(a.type, [a.type] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.{suffix}")
    return builder.call(function, [a, b, c])


def _tree_sum(builder, vector):
    width = LANES
    while width > 1:
        half = width // 2
        undefined = ir.Constant(vector.type, ir.Undefined)
        low, high = (
            builder.shuffle_vector(vector, undefined, ir.VectorType(_INT32, half)(list(lanes)))
            for lanes in (range(half), range(half, width))
        )
        vector, width = builder.fadd(low, high), half
    return builder.extract_element(vector, _INT32(0))


def _splat(builder, scalar, lanes=LANES):
    vector = _wide(_FLOAT, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, _INT32(0))
    return builder.shuffle_vector(first, undefined, ir.VectorType(_INT32, lanes)([0] * lanes))


def _loop(builder, start, stop, step, body):
    """for index in range(start, stop, step): body(index)"""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(_INT64)
    index.add_incoming(start, before)
    builder.cbranch(builder.icmp_signed("<", index, stop), inside, after)
    builder.position_at_end(inside)
    body(index)
    index.add_incoming(builder.add(index, _INT64(step)), builder.block)
    builder.branch(head)
    builder.position_at_end(after)
