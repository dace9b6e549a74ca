"""Reaches a server as its clients do: its address, its models, one started for a while."""
