"""Each kind of adapter on its way into the pool: packed in host memory, placed, found."""
