"""The density of MLP activations: measured, and lowered by a term of the loss (DEFT).

    settings      the weight of the term and what it counts
    sites         where a model's activations are
    soft_count    the term of one layer, with its gradient
    meter         hooks that count and collect terms, one forward pass at a time

From "From PEFT to DEFT: Parameter Efficient Finetuning for Reducing Activation Density in
Transformers" (Runwal et al., 2024). PEFT has a "DEFT" that is another method.
"""
