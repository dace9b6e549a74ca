"""The engine's loop, what it answers, and how it is put together."""
