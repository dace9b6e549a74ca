"""Adapters of every kind as plain LoRA, exactly or with a stated error; for users of PEFT alone."""
