"""The search space of each entry, its trials, and which of them is chosen."""
