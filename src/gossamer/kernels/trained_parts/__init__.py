"""What plain torch adds on any device: vectors of layers and norms, rows of tokens, bottlenecks.

These parts of adapters are a few small operations for each layer, which no kernel of ours would
make much faster; a step whose adapters have none of them does not come here.
"""
