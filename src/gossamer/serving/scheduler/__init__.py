"""Who runs next. Integers only: the simulator drives the same code without a tensor."""
