"""Transposition in Numba, by squares of eight by eight elements that stay in registers.

A plain loop reads or writes one element per line of the cache; here every load and store takes
eight neighbours.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

SIDE = 8

_INDEX = ir.IntType(32)
_ELEMENT = {types.int16: ir.IntType(16), types.int32: ir.IntType(32)}


@intrinsic
def _turn_square(typing_context, source, start, stride, target, target_start, target_stride):
    """target[i, j] = source[j, i] for the squares that begin at these elements of flat arrays."""
    signature = types.void(source, start, stride, target, target_start, target_stride)

    def generate(context, builder, signature, arguments):
        source_, start_, stride_, target_, target_start_, target_stride_ = arguments
        element = _ELEMENT[signature.args[0].dtype]
        vector = ir.VectorType(element, SIDE)

        def places(array_type, array, first, step):
            data = context.make_array(array_type)(context, builder, array).data
            for i in range(SIDE):
                offset = builder.add(first, builder.mul(step, ir.IntType(64)(i)))
                yield builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())

        align = element.width // 8
        lines = [
            builder.load(place, align=align)
            for place in places(signature.args[0], source_, start_, stride_)
        ]
        for _ in range(SIDE.bit_length() - 1):
            lines = _shuffle(builder, lines)
        to = places(signature.args[3], target_, target_start_, target_stride_)
        for place, line in zip(to, lines, strict=True):
            builder.store(line, place, align=align)
        return context.get_dummy_value()

    return signature, generate


def _shuffle(builder, lines):
    """Interleave line i with line i + 4. It moves the highest bit of a line's number behind the
    lowest of the place in it, so that three times exchange the two."""
    half = SIDE // 2
    mixed = []
    for first, second in zip(lines[:half], lines[half:], strict=True):
        for low in (0, half):
            order = [place for i in range(low, low + half) for place in (i, i + SIDE)]
            mask = ir.VectorType(_INDEX, SIDE)(order)
            mixed.append(builder.shuffle_vector(first, second, mask))
    return mixed


@njit(cache=True, nogil=True)
def transpose(source, rows, columns, target):
    """target [columns, rows] = source [rows, columns] transposed; flat int16 or int32 arrays."""
    whole_rows, whole_columns = rows - rows % SIDE, columns - columns % SIDE
    for row in range(0, whole_rows, SIDE):
        for column in range(0, whole_columns, SIDE):
            _turn_square(source, row * columns + column, columns, target, column * rows + row, rows)
        for column in range(whole_columns, columns):
            for i in range(row, row + SIDE):
                target[column * rows + i] = source[i * columns + column]
    for row in range(whole_rows, rows):
        for column in range(columns):
            target[column * rows + row] = source[row * columns + column]


@njit(cache=True, nogil=True)
def move_matrices(source, moves, target):
    """Copy matrices as `transpose.move_matrices` says, between flat int16 or int32 arrays."""
    for i in range(len(moves)):
        start, to, rows, columns = moves[i]
        size = rows * columns
        if rows == 1:
            target[to : to + size] = source[start : start + size]
        else:
            transpose(source[start : start + size], rows, columns, target[to : to + size])
