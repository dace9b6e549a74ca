"""What steps are computed on: its memory, its copies, and the order of what runs on it."""
