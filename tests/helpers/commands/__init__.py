"""What tests of commands share: what was printed, key files."""
