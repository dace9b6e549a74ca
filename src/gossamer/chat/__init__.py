"""Talks to models of a server in the terminal: one, or several side by side."""
