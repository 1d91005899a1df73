"""The part that needs a device. Only here are torch, transformers and PEFT imported."""
