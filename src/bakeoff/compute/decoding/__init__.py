"""Greedy decoding, and trained adapters ready to use."""
