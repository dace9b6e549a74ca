"""What the methods share: their interface, PEFT's bridge, targets, files, layers."""
