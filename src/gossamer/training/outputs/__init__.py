"""The files that a run leaves: checkpoints, metrics, run record, model card, loss curve."""
