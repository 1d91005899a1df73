"""The one training loop, its loss, batches and checkpoints."""
