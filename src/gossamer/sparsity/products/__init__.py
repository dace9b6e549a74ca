"""Products with frozen weights that sparse tokens take part in less than others.

slices     of channels that were chosen, forward and backward
few_rows   whole forward, and backward for the tokens of large gradients alone
branch     what a LoRA layer adds to them
"""
