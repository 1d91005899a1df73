"""Methods: one family a file. Importing this package registers those that come with bakeoff, and installed ones.

Another package adds its own by an entry point of the group `bakeoff.methods` that names the method's module.
"""

from importlib.metadata import entry_points

from bakeoff.methods import full, last_layers, lora, scaling, selective, soft_prompts
from bakeoff.methods.method import Method, build_method, method_class, method_names, register

for _entry_point in entry_points(group="bakeoff.methods"):
    _entry_point.load()
INSTALLED = frozenset(method_names())  # what every run's process knows; a script's own methods are not among them

__all__ = [
    "INSTALLED", "Method", "build_method", "full", "last_layers", "lora", "method_class", "method_names", "register",
    "scaling", "selective", "soft_prompts",
]  # fmt: skip
