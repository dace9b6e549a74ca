"""Reads untrusted files, within limits of bytes, items and time."""
