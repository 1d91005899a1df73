"""One output and its references become scores; the baselines that every entry is compared with."""
