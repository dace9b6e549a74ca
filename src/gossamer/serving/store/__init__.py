"""Adapters by name: found in folders, read in the background, kept in host memory."""
