"""The sockets, connections and signals below the app."""
