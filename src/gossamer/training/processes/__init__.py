"""A run on several processes, each with rows of its own: one per GPU, or a share of the cores."""
