"""Changes at single entries of weights: masks, the probe that chooses, the products, the layer."""
