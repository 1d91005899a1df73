"""Scores of outputs against references, and the baselines that every entry is compared with."""
