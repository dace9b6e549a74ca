"""SHERL: a side network reads frozen early layers; only the last layers have a backward pass."""
