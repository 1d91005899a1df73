"""Methods: one family a file. Importing this package registers those that come with bakeoff."""

from bakeoff.methods import last_layers, lora, soft_prompts
from bakeoff.methods.method import Method, build_method, method_class, method_names, register

__all__ = [
    "Method", "build_method", "last_layers", "lora", "method_class", "method_names", "register", "soft_prompts"
]  # fmt: skip
