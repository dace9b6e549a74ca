"""From the chunks of a step to the arrays that the kernels of a backend take."""
