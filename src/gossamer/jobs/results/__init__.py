"""What becomes of a finished job's adapter: links that show it, archives that carry it."""
