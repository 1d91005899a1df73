"""Data: sources of examples, the docstring task, tokens and batches."""
