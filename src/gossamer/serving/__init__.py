"""The engine that answers for any number of adapters, in layers, and the server around it."""
