"""Blind tasting: a local page on which people compare outputs."""
