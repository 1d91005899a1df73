"""The base model, its adapter, its forward pass and the device."""
