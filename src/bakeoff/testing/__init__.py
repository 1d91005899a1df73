"""For authors of methods: the contract that every method keeps, and tiny models of every family to test it."""

from bakeoff.testing.contract import CHECKS, check_method
from bakeoff.testing.families import FAMILIES, ROWS, family_base, family_config, family_shape

__all__ = ["CHECKS", "FAMILIES", "ROWS", "check_method", "family_base", "family_config", "family_shape"]
