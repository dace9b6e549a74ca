"""What one rank of several packs of an adapter."""
