"""Statistics over the records of all runs: the verdict and results.json."""
