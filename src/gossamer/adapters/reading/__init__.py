"""Reading files that nobody vouches for, within limits of bytes, items and time."""
