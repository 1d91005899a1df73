"""The confidence level of every statement, where no library of statistics needs to be loaded."""

LEVEL = 0.95
