"""The part that needs a device. Only this room imports torch, transformers and PEFT."""
