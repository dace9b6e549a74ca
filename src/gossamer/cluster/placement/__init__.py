"""Decides which replica a request goes to and who may use how much; integers and clocks only."""
