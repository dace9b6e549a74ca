"""ReFT: small edits of hidden states at prompt positions, the weights untouched."""
