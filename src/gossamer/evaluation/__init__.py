"""Scores of models and adapters on the tasks of lm-evaluation-harness, all in one batch."""
