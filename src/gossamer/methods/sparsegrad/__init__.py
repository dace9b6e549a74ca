"""SparseGrad: weights learn in a basis in which their gradients are sparse."""
