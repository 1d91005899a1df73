"""What `benchmarks/gpu_check.py` asserts and measures on one GPU."""
