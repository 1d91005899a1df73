"""One run from start to result, in a process of its own."""
