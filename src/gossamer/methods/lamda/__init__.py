"""LaMDA and LaMDA++: a small square matrix between singular vectors learns."""
