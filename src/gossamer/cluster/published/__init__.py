"""Adapters that several servers share: named in a catalog, kept in a store, cached on each disk."""
