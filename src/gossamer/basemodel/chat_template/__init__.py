"""What a chat template can write, and how a conversation is put where it could not write it."""
