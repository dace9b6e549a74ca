"""Weight changes at single entries: which ones, the products with them, layers that have them.

Shared by the methods that learn such changes; no method itself.
"""
