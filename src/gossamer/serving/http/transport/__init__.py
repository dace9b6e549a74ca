"""Sockets, connections and signals below the app."""
