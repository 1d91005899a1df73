"""Greedy decoding, and a trained adapter ready to use."""
