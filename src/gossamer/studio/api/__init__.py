"""Routes of the page alone: many answers in one stream, and one stream of all that changes."""
