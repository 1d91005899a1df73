"""The records of all runs become statistics, a verdict and results.json."""
