"""A low-rank update of which only the entries under a mask act."""
