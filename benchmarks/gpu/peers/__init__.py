"""Other projects' LoRA kernels beside ours, on the same work.

Their files are the user's own copy, from their wheels; none is part of this project. They run as
they are, host code and kernels: what they import from the rest of their package is stood in for.
"""
