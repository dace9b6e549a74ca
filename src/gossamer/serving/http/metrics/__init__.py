"""The figures at /metrics: of calls, of the engine, of its memory and of its tenants."""
