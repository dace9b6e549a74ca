"""SLoRA: single entries learn first, then LoRA that begins with what they learnt."""
