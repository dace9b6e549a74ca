"""One file per kind of adapter: what its files hold, checked and as tensors."""
