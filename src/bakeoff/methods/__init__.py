"""Methods, one family per file. Importing this package registers every file in it, and methods of installed packages.

Another package adds a method with an entry point in the group `bakeoff.methods` that names the method's module.
"""

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from bakeoff.methods.method import (
    Method,
    build_method,
    load_plug_in,
    method_class,
    method_names,
    register,
    unloaded,
)  # fmt: skip

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
for _entry_point in entry_points(group="bakeoff.methods"):
    load_plug_in(_entry_point)
INSTALLED = frozenset(method_names())  # what every run's process knows; a script's own methods are not among them

__all__ = ["INSTALLED", "Method", "build_method", "method_class", "method_names", "register", "unloaded"]
