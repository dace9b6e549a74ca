"""The scheduler's decisions, one idea per file: turns, fairness, order, deadlines, quotas."""
