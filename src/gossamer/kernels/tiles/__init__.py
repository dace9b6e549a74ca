"""Products of a few tokens with a few rows at a time, in vector instructions; no own operation."""
