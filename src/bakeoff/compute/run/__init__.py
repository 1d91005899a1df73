"""One run from start to result, in its own process."""
