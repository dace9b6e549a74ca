"""Packing: several rows in one, which do not see each other.

rows      rows put together, no longer than the maximum length
check     what cannot be packed, and a proof that a model keeps packed rows apart
"""
