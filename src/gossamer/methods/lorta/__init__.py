"""LoRTA: one low-rank tensor for the attention matrices of all layers."""
