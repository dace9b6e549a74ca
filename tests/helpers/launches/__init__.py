"""What a step launches: as a CUDA graph would hold it, or compiled for a GPU that is not here."""
