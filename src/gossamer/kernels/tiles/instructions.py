"""Vector instructions as functions that write them into a kernel (LLVM's intermediate language).

LLVM splits vectors that are wider than the processor's.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils

LANES = 16
"""The floats of a vector: two registers of AVX2, so that two sums run side by side."""

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
STORED = {types.float32: FLOAT, types.uint16: ir.IntType(16), types.int8: ir.IntType(8)}
"""The formats of rows' elements: float32, bfloat16 (which numpy knows as uint16 only), int8."""


def wide(scalar, lanes):
    """The type of `lanes` neighbours."""
    return ir.VectorType(scalar, lanes) if lanes > 1 else scalar


def data(context, builder, array_type, array):
    """The address of a contiguous array's first element."""
    return context.make_array(array_type)(context, builder, array).data


def place(builder, start, offset, stride, index):
    """start + offset + stride * index, in elements."""
    return builder.gep(start, [builder.add(offset, builder.mul(stride, INT64(index)))])


def load(builder, where, kind, scalar):
    """A value of type `kind`, made of `scalar`."""
    width = 32 if scalar is FLOAT else scalar.width
    return builder.load(builder.bitcast(where, kind.as_pointer()), align=width // 8)


def load_widened(builder, where, stored, lanes):
    """Load `lanes` elements of the format `stored` as float32."""
    value = load(builder, where, wide(stored, lanes), stored)
    if stored is FLOAT:
        return value
    integer, floating = wide(INT32, lanes), wide(FLOAT, lanes)
    if stored.width == 16:
        shift = integer([16] * lanes) if lanes > 1 else integer(16)
        return builder.bitcast(builder.shl(builder.zext(value, integer), shift), floating)
    return builder.sitofp(builder.sext(value, integer), floating)


def store(builder, value, where):
    """Store float32 values in place."""
    builder.store(value, builder.bitcast(where, value.type.as_pointer()), align=4)


def prefetch(builder, where):
    """Ask for the line at `where`, which may lie outside of the pool: nothing is read then."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [builder.bitcast(where, byte), INT32(0), INT32(3), INT32(1)])


def multiply_add(builder, a, b, c):
    """a * b + c in one rounding where the processor can, which every vector width here shares."""
    suffix = f"v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else "f32"
    kind = ir.FunctionType(a.type, [a.type] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.{suffix}")
    return builder.call(function, [a, b, c])


def tree_sum(builder, vector):
    """The sum of a vector's lanes: halves are added until one is left."""
    width = vector.type.count
    while width > 1:
        half = width // 2
        undefined = ir.Constant(vector.type, ir.Undefined)
        low, high = (
            builder.shuffle_vector(vector, undefined, ir.VectorType(INT32, half)(list(lanes)))
            for lanes in (range(half), range(half, width))
        )
        vector, width = builder.fadd(low, high), half
    return builder.extract_element(vector, INT32(0))


def splat(builder, scalar, lanes):
    """A vector of equal lanes."""
    if lanes == 1:
        return scalar
    vector = wide(FLOAT, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, INT32(0))
    return builder.shuffle_vector(first, undefined, ir.VectorType(INT32, lanes)([0] * lanes))


def loop(builder, start, stop, step, body):
    """for index in range(start, stop, step): body(index)"""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(INT64)
    index.add_incoming(start, before)
    builder.cbranch(builder.icmp_signed("<", index, stop), inside, after)
    builder.position_at_end(inside)
    body(index)
    index.add_incoming(builder.add(index, INT64(step)), builder.block)
    builder.branch(head)
    builder.position_at_end(after)


class Rows:
    """Several rows of a pool, loaded as float32."""

    def __init__(self, context, builder, pool_type, pool, starts, count):
        """starts: a tuple of `count` places in the pool."""
        first = data(context, builder, pool_type, pool)
        self._builder = builder
        self._rows = [
            builder.gep(first, [start]) for start in cgutils.unpack_tuple(builder, starts, count)
        ]
        self._stored = STORED[pool_type.dtype]

    def __len__(self):
        return len(self._rows)

    def load(self, row, index, lanes):
        """Elements [index, index + lanes) of a row."""
        where = self._builder.gep(self._rows[row], [index])
        return load_widened(self._builder, where, self._stored, lanes)

    def fetch_next(self, index, width):
        """Have what lies behind these rows brought in at `index`: most often the next ones."""
        ahead = self._builder.add(index, self._builder.mul(width, INT64(len(self))))
        for row in self._rows:
            prefetch(self._builder, self._builder.gep(row, [ahead]))
