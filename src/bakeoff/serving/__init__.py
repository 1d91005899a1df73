"""Serving finished bakeoffs over HTTP: one base in memory, every adapter a model name."""
