"""Finds a plan: how much of which layers may be left out before the loss says so.

halfway    hidden states between two layers; the loss under a plan, all its parts together
back       the plan that is exact going forward and shortens the way back
work       what a plan keeps of a run's work, what it must drop for a target
graded     the plan whose shares rise with depth by a rule, as high as a bound on the loss allows
sweep      what each layer alone costs
knapsack   the plan that costs least by the sum of what the layers cost alone
exchange   a plan made better step by step, judged by the loss of the whole
"""
