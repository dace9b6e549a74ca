"""Chooses the next tokens from the logits of a step."""
