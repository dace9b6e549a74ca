"""What a run leaves: checkpoints, metrics, record, card, curve."""
