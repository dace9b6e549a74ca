"""What is noted of each call, and who is told of it: a file, a collector of traces."""
