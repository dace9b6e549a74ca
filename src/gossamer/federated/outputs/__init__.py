"""What a federated run leaves: checkpoints of the server, figures, pictures, the adapter."""
