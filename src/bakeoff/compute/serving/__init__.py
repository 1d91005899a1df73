"""The serving engine: rows of many entries that share one base, and join and leave between tokens."""
