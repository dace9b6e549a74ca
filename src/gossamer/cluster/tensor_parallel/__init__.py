"""One model on several processes: they are started and joined, told each step, and end together."""
