"""What is noted of each call, and who is told of it when it is over: a file, a collector of traces."""
