"""Tiles: T tokens against R rows of weights, written out in vector instructions, for other kernels.

Numba leaves the order of a sum, and which loads are shared, to the compiler. Here both are fixed: a
row is loaded once for all tokens of a tile, so that a tile does several multiply-adds per load; and
every sum runs in one order whatever T and R are, so that a token's result has the same bits in any
tile. Rows are float32, bfloat16 (as uint16) or int8, and are widened in registers.
"""
