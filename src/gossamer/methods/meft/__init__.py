"""MEFT: a pre-trained decoder made reversible, so that few activations are kept while it learns."""
