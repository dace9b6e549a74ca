"""Beyond one process: one model on several, and several engines behind one address."""
