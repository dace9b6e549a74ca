"""Bottleneck adapters: small networks behind the sublayers, as of Houlsby and of Pfeiffer."""
