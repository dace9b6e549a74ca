"""LoRAPrune: whole channels and heads are pruned while LoRA learns (arXiv 2305.18403)."""
