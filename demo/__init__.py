"""The demo: tune one small model into several personas, serve them together, ask them all.

It uses Gossamer as anybody would: through its command, its files and its HTTP interface.
"""
