"""Where trained parts of adapters join the model: norms, linear layers, blocks, both ends."""
