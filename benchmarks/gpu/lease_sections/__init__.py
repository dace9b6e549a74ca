"""The sections of `lease.py`: each a function of a `Lease` that returns what it found."""
