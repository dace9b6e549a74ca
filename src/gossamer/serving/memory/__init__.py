"""What stays in memory and what goes: host cache, prefix cache, value of idle blocks."""
