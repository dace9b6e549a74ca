"""What all parts of the engine know: requests, sequences, adapters as numbers. No tensor."""
