"""What a run learns: completions, or to prefer one answer to another.

settings      the objective and its numbers
check         what an objective cannot go with
reference     how likely the model at the start of a run finds the answers
orpo          the loss that needs no reference
"""
