"""The half that needs a device: torch, transformers and PEFT are imported here and nowhere else."""
